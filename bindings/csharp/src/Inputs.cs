using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
#if CAPSULEGRAPH_SPANS
using System.Buffers;
#endif

namespace CapsuleGraph
{
    /// <summary>What the inputs of a run point to; holds all of it while the run lasts.</summary>
    internal sealed unsafe class InputPins : IDisposable
    {
        private readonly Pins pins = new Pins();
        private readonly List<Use> uses = new List<Use>();
#if CAPSULEGRAPH_SPANS
        private readonly List<MemoryHandle> memories = new List<MemoryHandle>();
#endif

        internal void* Pin(Array array)
        {
            return pins.Pin(array);
        }

        internal byte* Text(string text, string what, out UIntPtr length)
        {
            return pins.Text(text, what, out length);
        }

        internal capg_string[] Texts(string[] texts, string what)
        {
            return pins.Texts(texts, what);
        }

        /// <summary>The elements of an array, where they are. Arrays of bool, which not every runtime pins, are copied.</summary>
        internal void* Elements(Array array)
        {
            if (!(array is bool[])) return pins.Pin(array);
            var bytes = new byte[array.Length];
            Buffer.BlockCopy(array, 0, bytes, 0, bytes.Length);
            return pins.Pin(bytes);
        }

        /// <summary>An address in what a handle, which may be null, keeps.</summary>
        internal void* Keep(Handle owner, IntPtr data)
        {
            if (owner != null) uses.Add(new Use(owner));
            return data == IntPtr.Zero ? pins.Pin(new byte[1]) : (void*)data;
        }

#if CAPSULEGRAPH_SPANS
        internal void* Keep(MemoryHandle memory)
        {
            memories.Add(memory);
            return memory.Pointer == null ? pins.Pin(new byte[1]) : memory.Pointer;
        }
#endif

        public void Dispose()
        {
            pins.Dispose();
            foreach (Use use in uses) use.Dispose();
            uses.Clear();
#if CAPSULEGRAPH_SPANS
            foreach (MemoryHandle memory in memories) memory.Dispose();
            memories.Clear();
#endif
        }
    }
}
