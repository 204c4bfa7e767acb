using System;
using System.Collections.Generic;
using System.Linq;

namespace CapsuleGraph
{
    /// <summary>Why a generation ended.</summary>
    public enum Finish
    {
        /// <summary>It is not over.</summary>
        None = (int)Native.CAPG_FINISH_NONE,
        /// <summary>The model ended its text.</summary>
        End = (int)Native.CAPG_FINISH_END,
        /// <summary>A stop string came.</summary>
        Stop = (int)Native.CAPG_FINISH_STOP,
        /// <summary>MaxTokens were generated.</summary>
        Length = (int)Native.CAPG_FINISH_LENGTH,
        /// <summary>The context is full.</summary>
        Context = (int)Native.CAPG_FINISH_CONTEXT,
        /// <summary>The callback, or <see cref="Generation.Stop"/>, ended it.</summary>
        Callback = (int)Native.CAPG_FINISH_CALLBACK,
    }

    /// <summary>Receives a token and the text that became complete with it, which is never a part of a character; may be empty.
    /// Returns whether to go on. What it throws ends the generation and is thrown again.</summary>
    public delegate bool TokenCallback(int token, string text);

    /// <summary>How to make a session.</summary>
    public sealed class SessionOptions
    {
        /// <summary>Positions that there is room for; 0: the model's own context, at most 4096.</summary>
        public int Context { get; set; }

        /// <summary>Tokens that are evaluated together while a prompt is read; 0: what suits the machine.</summary>
        public int Batch { get; set; }

        /// <summary>How keys and values of past tokens are kept.</summary>
        public KVType KVType { get; set; }

        /// <summary>In mode speculative the mini drafts alone; text that repeats is not guessed to go on as before.</summary>
        public bool WithoutLookup { get; set; }
    }

    /// <summary>What to generate. The defaults are greedy, until the model ends its text or the context is full.</summary>
    public sealed class GenerateOptions
    {
        /// <summary>Tokens at most; 0: as many as the context has room for.</summary>
        public long MaxTokens { get; set; }

        /// <summary>The text ends before the first of these; null: none.</summary>
        public IReadOnlyList<string> Stop { get; set; }

        /// <summary>Chooses one of the possible random sequences: the same one gives the same text. Counts where Temperature is not
        /// 0.</summary>
        public ulong Seed { get; set; }

        /// <summary>Divides the logits: 0 takes the best token always, 1 leaves the model's own distribution. At most 100.</summary>
        public float Temperature { get; set; }

        /// <summary>Keeps this many best tokens; 0 keeps all.</summary>
        public int TopK { get; set; }

        /// <summary>Keeps the fewest best tokens whose probabilities reach this sum; 0 and 1 keep all.</summary>
        public float TopP { get; set; }

        /// <summary>Drops tokens less probable than this share of the best one's probability; 0 keeps all.</summary>
        public float MinP { get; set; }

        /// <summary>Divides positive and multiplies negative logits of recent tokens; 0 and 1 change nothing.</summary>
        public float RepeatPenalty { get; set; }

        /// <summary>How many recent tokens are penalised; 0 means 64.</summary>
        public int RepeatWindow { get; set; }

        /// <summary>Go on after an end-of-generation token (for measurements).</summary>
        public bool IgnoreEnd { get; set; }

        internal unsafe capg_generate_options Raw(Pins pins)
        {
            var raw = new capg_generate_options();
            raw.struct_size = (UIntPtr)(uint)sizeof(capg_generate_options);
            string[] stop = Stop == null ? new string[0] : Stop.ToArray();
            if (stop.Length > 0)
            {
                raw.stop = (capg_string*)pins.Pin(pins.Texts(stop, nameof(Stop)));
                raw.stop_count = (UIntPtr)(uint)stop.Length;
            }
            raw.max_tokens = Check.Bytes(MaxTokens, nameof(MaxTokens));
            raw.seed = Seed;
            raw.temperature = Temperature;
            raw.top_p = TopP;
            raw.min_p = MinP;
            raw.repeat_penalty = RepeatPenalty;
            raw.top_k = Check.Count(TopK, nameof(TopK));
            raw.repeat_window = Check.Count(RepeatWindow, nameof(RepeatWindow));
            raw.ignore_end = IgnoreEnd ? 1u : 0u;
            return raw;
        }
    }
}
