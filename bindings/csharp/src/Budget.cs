using System.Runtime.CompilerServices;

namespace CapsuleGraph
{
    /// <summary>A bound in bytes on all memory of the models that are opened with it, and of their sessions.</summary>
    public sealed unsafe class Budget : Resource
    {
        /// <summary>Makes one of that many bytes.</summary>
        public Budget(long size) : base(Make(size))
        {
        }

        private static Handle Make(long size)
        {
            Library.Load();
            return New(Check.Bytes(size, nameof(size)));
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static Handle New(ulong size)
        {
            var handle = new Handle(Kind.Budget);
            capg_budget* raw;
            capg_error* error;
            Failure.Check(Native.capg_budget_new(size, &raw, &error), error);
            return handle.Take(raw);
        }

        /// <summary>The bound in bytes. Where a new one is less, weights are given up before it is set; one that open models and
        /// sessions cannot work in is a <see cref="Status.Limit"/> that names the smallest possible.</summary>
        public long Size
        {
            get
            {
                ulong claimed;
                return (long)Bytes(out claimed);
            }
            set
            {
                using (var budget = new Use(Handle))
                {
                    capg_error* error;
                    ulong bytes = Check.Bytes(value, nameof(value));
                    Failure.Check(Native.capg_budget_resize((capg_budget*)budget.Pointer, bytes, &error), error);
                }
            }
        }

        /// <summary>Bytes of it that KV caches, activations, tables and fetched capsules claim; the rest holds weights.</summary>
        public long Claimed
        {
            get
            {
                ulong claimed;
                Bytes(out claimed);
                return (long)claimed;
            }
        }

        private ulong Bytes(out ulong claimed)
        {
            using (var budget = new Use(Handle))
            {
                ulong bytes, used;
                capg_error* error;
                Failure.Check(Native.capg_budget_bytes((capg_budget*)budget.Pointer, &bytes, &used, &error), error);
                claimed = used;
                return bytes;
            }
        }
    }
}
