"""What Python costs: calls a second, and the share of a token callback in the time of decoding.

    overhead.py MODEL.cgraph
"""

import ctypes
import sys
import time
from ctypes import byref

import capsulegraph as cg
from capsulegraph import _native

PROMPT, TOKENS, ROUNDS = "Once upon a time", 128, 7


def calls_a_second(call, count=100_000):
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(count):
            call()
        best = max(best, count / (time.perf_counter() - begun))
    return best


def native(session, prompt):
    """The same generation inside one call of the library, which is never left."""
    options = _native.GenerateOptions(struct_size=ctypes.sizeof(_native.GenerateOptions), max_tokens=TOKENS, ignore_end=1)
    error = ctypes.c_void_p()
    none = _native.TokenCallback()
    status = cg._lib.capg_session_generate(
        session._handle, prompt, len(prompt), byref(options), none, None, None, None, byref(error)
    )
    assert status == 0, status


def step_seconds(session, ids):
    """What a step costs that has nothing to compute: of a generation at its end, with a callback for a token."""
    seen = []
    generation = session.generate(ids, max_tokens=1, on_token=lambda token, text: seen.append(token))
    generation.read()

    def step():
        generation._text.reason = "none"
        generation._step()
        generation._on_token(0, "")

    return 1 / calls_a_second(step, 20_000)


def main():
    with cg.Model(sys.argv[1]) as model, model.session() as session:
        ids = model.tokenize(PROMPT)
        prompt = (ctypes.c_uint32 * len(ids))(*ids)
        version, count = calls_a_second(cg.version), calls_a_second(lambda: len(session))
        print(f"version(): {version:,.0f} calls a second")
        print(f"len(session), the token count: {count:,.0f} calls a second")
        ways = {
            "one native call": lambda: native(session, prompt),
            "iterator": lambda: session.generate(ids, max_tokens=TOKENS, ignore_end=True).read(),
            "on_token": lambda: session.generate(
                ids, max_tokens=TOKENS, ignore_end=True, on_token=lambda token, text: None
            ).read(),
        }
        best = dict.fromkeys(ways, float("inf"))
        # In turns, so that what else the machine does meets all of them.
        for _ in range(ROUNDS):
            for name, way in ways.items():
                session.reset()
                begun = time.perf_counter()
                way()
                best[name] = min(best[name], time.perf_counter() - begun)
        base = best["one native call"]
        for name, spent in best.items():
            extra = (spent - base) / TOKENS * 1e6
            print(f"{name}: {TOKENS / spent:.1f} tokens a second, {extra:+.1f} us a token, {(spent / base - 1) * 100:+.2f} %")
        step = step_seconds(session, ids)
        share = step / (base / TOKENS)
        print(f"a step and callback without computing: {step * 1e6:.1f} us, {share * 100:.2f} % of a token's time")
        good = min(version, count) >= 300_000 and share < 0.01
        print(f"{'within' if good else 'outside of'} the marks: 300,000 calls a second, 1 %")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
