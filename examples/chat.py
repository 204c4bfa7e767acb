"""A conversation on the terminal; Ctrl-C stops an answer, the end of input the program.

    chat.py MODEL.cgraph [BUDGET_BYTES]
"""

import sys

import capsulegraph


def main():
    memory = int(sys.argv[2]) if len(sys.argv) > 2 else None
    with capsulegraph.Model(sys.argv[1], memory=memory) as model, model.session() as session:
        print(f"{model.name}, mode {model.mode}", file=sys.stderr)
        while True:
            print("> ", end="", flush=True)
            question = sys.stdin.readline()
            if not question:
                break
            try:
                for text in session.chat(question.strip(), max_tokens=200):
                    print(text, end="", flush=True)
            except KeyboardInterrupt:
                pass
            print()


if __name__ == "__main__":
    main()
