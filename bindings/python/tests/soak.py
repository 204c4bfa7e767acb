"""Eight threads with a session each on one shared model: the same tokens as alone, again and again.

    soak.py SECONDS
"""

import resource
import sys
import threading
import time

from support import language

import capsulegraph as cg

THREADS, TOKENS = 8, 16
PROMPTS = [
    "Once upon a time",
    "The capital of France is",
    "def fibonacci(n):",
    "Water boils at",
    "In the beginning",
    "The three largest cities of Italy are",
    "A capsule is",
    "My favourite colour",
]


def generate(model, prompt):
    with model.session(context=256) as session:
        generation = session.generate(prompt, max_tokens=TOKENS, ignore_end=True)
        generation.read()
        return generation.tokens


def main():
    deadline = time.monotonic() + float(sys.argv[1])
    model = cg.Model(language())
    alone = [generate(model, prompt) for prompt in PROMPTS]
    wrong, rounds = [], [0] * THREADS
    begun = time.monotonic()

    def work(index):
        turn = index
        try:
            while time.monotonic() < deadline and not wrong:
                which = turn % len(PROMPTS)
                found = generate(model, PROMPTS[which])
                if found != alone[which]:
                    wrong.append(f"thread {index}: {PROMPTS[which]!r} gave {found} and alone {alone[which]}")
                rounds[index] += 1
                turn += 1
        except BaseException as error:
            wrong.append(f"thread {index}: {error!r}")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model.close()
    spent, peak = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{THREADS} threads, {sum(rounds)} generations in {spent:.0f} s, {min(rounds)} to {max(rounds)} a thread, peak {peak} MiB")
    for line in wrong:
        print(line)
    good = not wrong and min(rounds) > 0
    passed = sum(1 for count in rounds if count) if good else 0
    print(f"test result: {'ok' if good else 'FAILED'}. {passed} passed; {0 if good else max(1, len(wrong))} failed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
