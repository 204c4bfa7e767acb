"""What Python costs: calls a second, and the share of decoding that goes to a token's way to the program.

    overhead.py MODEL.cgraph

The same generation in one call of the library that no token leaves, by `read()`, by the iterator, and with `on_token`, which is
the iterator and a call of the program's function. Decoding's own time changes from run to run by more than any of them costs, so
what is told of a way is the rest: the time of the whole less that of the passes, which the session's report has. Between two
tokens the model's weights pass through the processor's caches, so that Python's own data come from memory each time, as a
repeated call without computing does not show.

The marks: 300,000 calls a second; of a token's time 1 % for the callback and 2 % for leaving the library after each token; and
5 % for the whole, should a way make the passes themselves slower.
"""

import ctypes
import statistics
import sys
import time
from ctypes import byref

import capsulegraph as cg
from capsulegraph import _native

PROMPT, TOKENS, ROUNDS = "Once upon a time", 64, 15
CALLS, CALLBACK, WAY, WHOLE = 300_000, 0.01, 0.02, 0.05


def calls_a_second(call, count=100_000):
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(count):
            call()
        best = max(best, count / (time.perf_counter() - begun))
    return best


def native(session, prompt):
    """The generation inside one call of the library, which is never left."""
    options = _native.GenerateOptions(struct_size=ctypes.sizeof(_native.GenerateOptions), max_tokens=TOKENS, ignore_end=1)
    error = ctypes.c_void_p()
    none = _native.TokenCallback()
    status = cg._lib.capg_session_generate(
        session._handle, prompt, len(prompt), byref(options), none, None, None, None, byref(error)
    )
    assert status == 0, status


def passes_seconds(session):
    """Seconds of the passes of the last generation, and of all until its first token."""
    report = session.report()
    assert report["generated_tokens"] == TOKENS, report
    return report["first_token_ms"] / 1e3 + (TOKENS - 1) / report["decode_tokens_per_s"]


def still_seconds(session, ids):
    """Seconds of a step that has nothing to compute, again and again: of a generation at its end."""
    generation = session.generate(ids, max_tokens=1)
    generation.read()

    def step():
        generation._text.reason = "none"
        generation._step()

    return 1 / calls_a_second(step, 20_000)


def main():
    with cg.Model(sys.argv[1]) as model, model.session() as session:
        ids = model.tokenize(PROMPT)
        prompt = (ctypes.c_uint32 * len(ids))(*ids)
        version, count = calls_a_second(cg.version), calls_a_second(lambda: len(session))
        print(f"version(): {version:,.0f} calls a second")
        print(f"len(session), the token count: {count:,.0f} calls a second")

        def generate(**options):
            return session.generate(ids, max_tokens=TOKENS, ignore_end=True, **options)

        ways = {
            "one native call": lambda: native(session, prompt),
            "read": lambda: generate().read(),
            "iterator": lambda: [piece for piece in generate()],
            "on_token": lambda: generate(on_token=lambda token, text: None).read(),
        }
        whole, rest = {name: [] for name in ways}, {name: [] for name in ways}
        # In turns, so that what else the machine does meets all of them.
        for _ in range(ROUNDS):
            for name, way in ways.items():
                session.reset()
                begun = time.perf_counter()
                way()
                spent = time.perf_counter() - begun
                whole[name].append(spent / TOKENS)
                rest[name].append((spent - passes_seconds(session)) / (TOKENS - 1))
        whole, rest = ({name: statistics.median(one) for name, one in found.items()} for found in (whole, rest))
        token = whole["one native call"]
        shares = {name: (found - rest["one native call"]) / token for name, found in rest.items()}
        for name in ways:
            cost = shares[name] * token * 1e6
            print(f"{name}: {1 / whole[name]:.1f} tokens a second; "
                  f"{cost:.1f} us a token, {shares[name] * 100:.2f} % of its time")
        print(f"a step that finds nothing to compute: {still_seconds(session, ids) * 1e6:.1f} us")
        callback = shares["on_token"] - shares["iterator"]
        print(f"the callback alone: {callback * token * 1e6:.1f} us, {callback * 100:.2f} %")
        slowest = max(whole.values()) / token - 1
        good = min(version, count) >= CALLS and callback < CALLBACK and max(shares.values()) < WAY and slowest < WHOLE
        print(f"{'within' if good else 'outside of'} the marks: {CALLS:,} calls a second, {CALLBACK:.0%}, {WAY:.0%}, {WHOLE:.0%}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
