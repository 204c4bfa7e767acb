using System;
using System.Threading;

namespace CapsuleGraph
{
    /// <summary>How to make a part.</summary>
    public sealed class PartOptions
    {
        /// <summary>Positions that there is room for; 0: the model's own context, at most 4096.</summary>
        public int Context { get; set; }

        /// <summary>How keys and values of past tokens are kept; the same in all parts.</summary>
        public KVType KVType { get; set; }
    }

    /// <summary>A sequence on the capsules that a model was opened for (FirstCapsule and EndCapsule of its options), where other
    /// processes have the others. One call at a time.</summary>
    public sealed unsafe class Part : Resource
    {
        private readonly object gate = new object();

        /// <summary>Makes one on a model, which it keeps alive.</summary>
        public Part(Model model, PartOptions options = null)
            : base(New(Check.NotNull(model, nameof(model)), options ?? new PartOptions()))
        {
        }

        private static Handle New(Model model, PartOptions options)
        {
            using (var use = new Use(model.Handle))
            {
                var raw = new capg_part_options();
                raw.struct_size = (UIntPtr)(uint)sizeof(capg_part_options);
                raw.context = Check.Count(options.Context, nameof(options.Context));
                raw.kv_type = (uint)options.KVType;
                var handle = new Handle(Kind.Part);
                capg_part* part;
                capg_error* error;
                Failure.Check(Native.capg_part_new((capg_model*)use.Pointer, &raw, &part, &error), error);
                return handle.Take(part);
            }
        }

        /// <summary>Evaluates tokens, in the part that begins with capsule 0. Gives activations, a row a token, or logits of the part
        /// with the head: of the last token, or with allLogits of each.</summary>
        public Rows Eval(int[] ids, bool allLogits = false, CancellationToken cancellationToken = default(CancellationToken))
        {
            Check.NotNull(ids, nameof(ids));
            using (var part = new Use(Handle))
            using (var cancel = new CancelScope(cancellationToken))
            using (var pins = new Pins())
            {
                var raw = (capg_part*)part.Pointer;
                var data = (uint*)pins.Pin(ids);
                capg_error* error;
                Enter();
                try
                {
                    uint status = Native.capg_part_eval(raw, data, (UIntPtr)(uint)ids.Length, Flags(allLogits), cancel.Pointer, &error);
                    cancel.Check(status, error);
                    return Output(raw);
                }
                finally
                {
                    Monitor.Exit(gate);
                }
            }
        }

        /// <summary>As Eval, with what the part before gave. Its array is read where it is.</summary>
        public Rows EvalActivations(Rows rows, bool allLogits = false, CancellationToken cancellationToken = default(CancellationToken))
        {
            Check.NotNull(rows, nameof(rows));
            using (var part = new Use(Handle))
            using (var cancel = new CancelScope(cancellationToken))
            using (var pins = new Pins())
            {
                var raw = (capg_part*)part.Pointer;
                var data = (float*)pins.Pin(rows.Data);
                capg_error* error;
                Enter();
                try
                {
                    uint status = Native.capg_part_eval_activations(raw, data, (UIntPtr)(uint)rows.Count, (UIntPtr)(uint)rows.Columns,
                        Flags(allLogits), cancel.Pointer, &error);
                    cancel.Check(status, error);
                    return Output(raw);
                }
                finally
                {
                    Monitor.Exit(gate);
                }
            }
        }

        /// <summary>Positions that it has evaluated.</summary>
        public int Count
        {
            get
            {
                using (var part = new Use(Handle))
                {
                    UIntPtr count;
                    capg_error* error;
                    Failure.Check(Native.capg_part_len((capg_part*)part.Pointer, &count, &error), error);
                    return (int)count.ToUInt32();
                }
            }
        }

        /// <summary>Forgets every position from that one on.</summary>
        public void Truncate(int count)
        {
            using (var part = new Use(Handle))
            {
                capg_error* error;
                uint wanted = Check.Count(count, nameof(count));
                Enter();
                try
                {
                    Failure.Check(Native.capg_part_truncate((capg_part*)part.Pointer, (UIntPtr)wanted, &error), error);
                }
                finally
                {
                    Monitor.Exit(gate);
                }
            }
        }

        private static uint Flags(bool allLogits)
        {
            return allLogits ? Native.CAPG_EVAL_ALL_LOGITS : 0;
        }

        private void Enter()
        {
            if (!Monitor.TryEnter(gate)) throw new CapsuleGraphException(Status.Busy, "the part is in use by another call; wait for it");
        }

        private static Rows Output(capg_part* part)
        {
            float* data;
            UIntPtr rows, columns;
            capg_error* error;
            Failure.Check(Native.capg_part_output(part, &data, &rows, &columns, &error), error);
            return new Rows(data, rows, columns);
        }
    }
}
