"""Finds a voice in sounds with silero-vad, an ONNX model of the package silero-vad, 16,000 samples a second.

    voice.py silero_vad_16k_op15.cgraph [SOUND.wav]

Without a file it makes three sounds itself: silence, a sung vowel, and noise. A file has one channel of 16 bits.
"""

import sys
import wave

import numpy as np

import capsulegraph

RATE, WINDOW, CONTEXT = 16_000, 512, 64


def vowel(seconds=1.5):
    """An "a" as throat and mouth make it: a buzz at the pitch of a voice, which rises and falls, through four resonances."""
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 125 + 25 * np.sin(2 * np.pi * 1.3 * time) + 2 * np.sin(2 * np.pi * 5 * time)
    sound = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0.0)
    for center, width in ((730, 90), (1090, 110), (2440, 170), (3400, 250)):
        radius = np.exp(-np.pi * width / RATE)
        a, b = 2 * radius * np.cos(2 * np.pi * center / RATE), -radius * radius
        out = np.zeros(len(sound) + 2)
        for n, sample in enumerate(sound):
            out[n + 2] = sample * (1 - radius) + a * out[n + 1] + b * out[n]
        sound = out[2:]
    syllables = np.clip(1.6 * np.sin(2 * np.pi * 2.2 * time) ** 2, 0, 1)
    return (0.5 * syllables * sound / np.abs(sound).max()).astype(np.float32)


def probabilities(model, sound):
    """How sure the model is of a voice, for each window of 32 ms; its state goes from one to the next."""
    state = np.zeros((2, 1, 128), np.float32)
    window = np.zeros((1, CONTEXT + WINDOW), np.float32)
    for at in range(0, len(sound) - WINDOW + 1, WINDOW):
        window[:, :CONTEXT] = window[:, -CONTEXT:]
        window[:, CONTEXT:] = sound[at : at + WINDOW]
        found = model.run({"input": window, "state": state, "sr": RATE})
        state = found["stateN"]
        yield float(found["output"][0, 0])


def sounds(arguments):
    if not arguments:
        noise = np.random.default_rng(1).normal(0, 0.01, RATE).astype(np.float32)
        return {"silence": np.zeros(RATE, np.float32), "a vowel": vowel(), "noise": noise}
    with wave.open(arguments[0]) as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, RATE):
            raise SystemExit(f"{arguments[0]}: one channel of 16 bits at {RATE} samples a second is wanted")
        data = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return {arguments[0]: data.astype(np.float32) / 32768}


def main():
    with capsulegraph.Model(sys.argv[1]) as model:
        for name, sound in sounds(sys.argv[2:]).items():
            most = max(probabilities(model, sound))
            print(f"{name}: {most:.3f} {'voice' if most > 0.5 else 'silence'}")


if __name__ == "__main__":
    main()
