using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;

namespace CapsuleGraph
{
    /// <summary>How a model computes.</summary>
    public enum Mode
    {
        /// <summary>What suits file and budget; <see cref="Model.Mode"/> says what it came to.</summary>
        Auto = (int)Native.CAPG_MODE_AUTO,
        /// <summary>Every capsule at full precision.</summary>
        Exact = (int)Native.CAPG_MODE_EXACT,
        /// <summary>Only what the mini holds; the full file is never opened.</summary>
        Fast = (int)Native.CAPG_MODE_FAST,
        /// <summary>The tokens of exact; the mini drafts some, and one pass at full precision verifies them together.</summary>
        Speculative = (int)Native.CAPG_MODE_SPECULATIVE,
    }

    /// <summary>How the threads that compute stand to others.</summary>
    public enum Priority
    {
        /// <summary>They run with the priority of the thread that opens the model.</summary>
        Inherited = (int)Native.CAPG_PRIORITY_INHERITED,
        /// <summary>Behind the host's ordinary threads.</summary>
        Low = (int)Native.CAPG_PRIORITY_LOW,
        /// <summary>Behind everybody else's.</summary>
        Lowest = (int)Native.CAPG_PRIORITY_LOWEST,
    }

    /// <summary>How keys and values of past tokens are kept.</summary>
    public enum KVType
    {
        /// <summary>In half precision.</summary>
        F16 = (int)Native.CAPG_KV_F16,
        /// <summary>8-bit codes with a scale for every 32, about half the memory.</summary>
        Q8_0 = (int)Native.CAPG_KV_Q8_0,
    }

    /// <summary>Whether weights of an ONNX model are copied into the form that ONNX Runtime's kernels like best.</summary>
    public enum Prepack
    {
        /// <summary>Of each capsule where it pays and the budget has room.</summary>
        Auto = (int)Native.CAPG_PREPACK_AUTO,
        /// <summary>Of every capsule.</summary>
        On = (int)Native.CAPG_PREPACK_ON,
        /// <summary>Of none.</summary>
        Off = (int)Native.CAPG_PREPACK_OFF,
    }

    /// <summary>Whether ONNX Runtime optimises the graph of each capsule.</summary>
    public enum Optimization
    {
        /// <summary>It does.</summary>
        Default = (int)Native.CAPG_OPTIMIZATION_DEFAULT,
        /// <summary>It does not: slower, and the bits of the outputs do not depend on how the model is cut.</summary>
        Off = (int)Native.CAPG_OPTIMIZATION_OFF,
    }

    /// <summary>How to open a model. Everything may be left as it is.</summary>
    public sealed class ModelOptions
    {
        /// <summary><see cref="JoinedBytes"/> of a model whose capsules have a session of ONNX Runtime each.</summary>
        public const long JoinedNone = (long)Native.CAPG_JOINED_NONE;

        /// <summary>How it computes.</summary>
        public Mode Mode { get; set; }

        /// <summary>Bytes that the model and its sessions may take; 0: no bound. Excludes <see cref="Budget"/>.</summary>
        public long MemoryBytes { get; set; }

        /// <summary>A budget that the model shares with others.</summary>
        public Budget Budget { get; set; }

        /// <summary>Path of a mini's full file; null: the file of the recorded name beside the mini.</summary>
        public string FullPath { get; set; }

        /// <summary>A mini's full file as a stream, which is read as a whole while the model is opened. Excludes
        /// <see cref="FullPath"/>.</summary>
        public Stream FullStream { get; set; }

        /// <summary>Threads that compute, the caller's included; 0: one for each processor.</summary>
        public int Threads { get; set; }

        /// <summary>Numbers of the processors that the library's threads may run on; null: all.</summary>
        public IReadOnlyList<int> Processors { get; set; }

        /// <summary>How its threads stand to others.</summary>
        public Priority Priority { get; set; }

        /// <summary>First byte of the model in its file, where it is part of a larger one.</summary>
        public long Offset { get; set; }

        /// <summary>Bytes of the model in its file; 0: up to the file's end.</summary>
        public long Length { get; set; }

        /// <summary>First byte of the full file in <see cref="FullPath"/>.</summary>
        public long FullOffset { get; set; }

        /// <summary>Bytes of the full file in <see cref="FullPath"/>; 0: up to its end.</summary>
        public long FullLength { get; set; }

        /// <summary>Index of the first capsule that is computed with here, where other processes have the others.</summary>
        public int FirstCapsule { get; set; }

        /// <summary>Index past the last one; 0: all.</summary>
        public int EndCapsule { get; set; }

        /// <summary>Positions of the session that a budget leaves room for; 0: as many as a session has by default.</summary>
        public int SessionContext { get; set; }

        /// <summary>How that session keeps keys and values.</summary>
        public KVType SessionKVType { get; set; }

        /// <summary>Of an ONNX model: path of ONNX Runtime's library, or of the folder that it is in; null: what CAPSULEGRAPH_ONNXRUNTIME
        /// names, else the library that the program brings along, else it is looked for.</summary>
        public string OnnxRuntime { get; set; }

        /// <summary>Of an ONNX model: whether weights are copied into another form.</summary>
        public Prepack Prepack { get; set; }

        /// <summary>Of an ONNX model: whether graphs are optimised.</summary>
        public Optimization Optimization { get; set; }

        /// <summary>Of an ONNX model: bytes of weights up to which neighbouring capsules share a session of ONNX Runtime; 0: 4 MiB;
        /// <see cref="JoinedNone"/>: none.</summary>
        public long JoinedBytes { get; set; }

        /// <summary>Receives log lines, those of the model's sessions too.</summary>
        public Log Log { get; set; }

        internal unsafe capg_model_options Raw(Pins pins, capg_reader* full, capg_log* log, capg_budget* budget)
        {
            var raw = new capg_model_options();
            raw.struct_size = (UIntPtr)(uint)sizeof(capg_model_options);
            raw.full_path = pins.Optional(FullPath, nameof(FullPath), out raw.full_path_len);
            raw.full_reader = full;
            raw.log = log;
            raw.offset = Check.Bytes(Offset, nameof(Offset));
            raw.length = Check.Bytes(Length, nameof(Length));
            raw.full_offset = Check.Bytes(FullOffset, nameof(FullOffset));
            raw.full_length = Check.Bytes(FullLength, nameof(FullLength));
            raw.memory_budget_bytes = Check.Bytes(MemoryBytes, nameof(MemoryBytes));
            raw.mode = (uint)Mode;
            raw.threads = Check.Count(Threads, nameof(Threads));
            uint[] numbers = (Processors ?? new int[0]).Select(one => Check.Count(one, nameof(Processors))).ToArray();
            if (numbers.Length > 0)
            {
                raw.processors = (uint*)pins.Pin(numbers);
                raw.processors_len = (UIntPtr)(uint)numbers.Length;
            }
            raw.priority = (uint)Priority;
            raw.budget = budget;
            raw.first_capsule = Check.Count(FirstCapsule, nameof(FirstCapsule));
            raw.end_capsule = Check.Count(EndCapsule, nameof(EndCapsule));
            raw.session_context = Check.Count(SessionContext, nameof(SessionContext));
            raw.session_kv_type = (uint)SessionKVType;
            string runtime = CapsuleGraph.OnnxRuntime.For(OnnxRuntime);
            raw.onnxruntime_path = pins.Optional(runtime, nameof(OnnxRuntime), out raw.onnxruntime_path_len);
            raw.prepack = (uint)Prepack;
            raw.optimization = (uint)Optimization;
            raw.joined_bytes = Check.Bytes(JoinedBytes, nameof(JoinedBytes));
            return raw;
        }
    }
}
