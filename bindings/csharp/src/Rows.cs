using System;
using System.Runtime.InteropServices;

namespace CapsuleGraph
{
    /// <summary>Logits or activations, row after row: a row a token.</summary>
    public sealed class Rows
    {
        /// <summary>Makes them of floats, row after row.</summary>
        public Rows(float[] data, int count, int columns)
        {
            Data = Check.NotNull(data, nameof(data));
            if (count < 0 || columns < 0 || (long)count * columns != data.Length)
                throw new ArgumentException(data.Length + " floats are not " + count + " rows of " + columns + ".");
            Count = count;
            Columns = columns;
        }

        internal unsafe Rows(float* data, UIntPtr rows, UIntPtr columns)
        {
            Count = checked((int)rows.ToUInt64());
            Columns = checked((int)columns.ToUInt64());
            Data = new float[checked(Count * Columns)];
            if (Data.Length > 0) Marshal.Copy((IntPtr)data, Data, 0, Data.Length);
        }

        /// <summary>All of them.</summary>
        public float[] Data { get; }

        /// <summary>Number of rows.</summary>
        public int Count { get; }

        /// <summary>Floats in a row.</summary>
        public int Columns { get; }

#if CAPSULEGRAPH_SPANS
        /// <summary>A row, where it is.</summary>
        public ReadOnlySpan<float> this[int index]
        {
            get { return new ReadOnlySpan<float>(Data, Start(index), Columns); }
        }
#endif

        /// <summary>A row: a copy.</summary>
        public float[] Row(int index)
        {
            var row = new float[Columns];
            Array.Copy(Data, Start(index), row, 0, Columns);
            return row;
        }

        /// <summary>Number of rows and their width, such as Rows[5, 576].</summary>
        public override string ToString()
        {
            return "Rows[" + Count + ", " + Columns + "]";
        }

        private int Start(int index)
        {
            if (index >= 0 && index < Count) return index * Columns;
            throw new ArgumentOutOfRangeException(nameof(index), index, "There are " + Count + " rows.");
        }
    }
}
