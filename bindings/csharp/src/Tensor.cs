using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;

#if CAPSULEGRAPH_SPANS
using System.Buffers;
#endif

namespace CapsuleGraph
{
    /// <summary>A dense tensor, in row-major order: of an array of the program, which a run reads where it is, or of memory of the
    /// library, which is not copied either.</summary>
    /// <remarks>A tensor of the library's memory can be read until its <see cref="Outputs"/> are disposed.</remarks>
    public sealed unsafe class Tensor
    {
        private readonly long[] shape;
        // What it is made of: an array (of strings too), memory that the program owns, or memory of a handle.
        private readonly Array array;
        private readonly IntPtr data;
        private readonly Handle owner;
#if CAPSULEGRAPH_SPANS
        private readonly Func<MemoryHandle> pin;
#endif

        private Tensor(ElementType element, long[] shape, long byteLength)
        {
            Element = element;
            this.shape = shape;
            ByteLength = byteLength;
            Count = Elements.Count(shape);
        }

        private Tensor(ElementType element, Array array, long[] shape, long byteLength) : this(element, shape, byteLength)
        {
            this.array = array;
        }

        internal Tensor(capg_tensor raw, Handle owner) : this((ElementType)raw.element, Extents(raw), (long)raw.data_len.ToUInt64())
        {
            data = (IntPtr)raw.data;
            this.owner = owner;
        }

        /// <summary>Makes one of an array, without a copy. No shape: one dimension of all elements.</summary>
        public static Tensor Of<T>(T[] data, params long[] shape) where T : struct
        {
            return Of(Elements.Of<T>(), data, shape);
        }

        /// <summary>Makes one of an array whose elements have the bits of that type, such as ushort for Float16.</summary>
        public static Tensor Of<T>(ElementType element, T[] data, params long[] shape) where T : struct
        {
            Check.NotNull(data, nameof(data));
            Elements.CheckFits<T>(element);
            long bytes = (long)data.Length * Elements.Size<T>();
            return Checked(new Tensor(element, data, Extents(shape, data.Length), bytes), data.Length);
        }

        /// <summary>Makes one of strings.</summary>
        public static Tensor Of(string[] data, params long[] shape)
        {
            Check.NotNull(data, nameof(data));
            return Checked(new Tensor(ElementType.String, data, Extents(shape, data.Length), data.Length), data.Length);
        }

        /// <summary>Makes one of a single element, of no dimensions.</summary>
        public static Tensor Scalar<T>(T value) where T : struct
        {
            return new Tensor(Elements.Of<T>(), new[] { value }, new long[0], Elements.Size<T>());
        }

        /// <summary>Makes one of elements of less than a byte, which are given one to a byte and packed here.</summary>
        public static Tensor Packed(ElementType element, sbyte[] data, params long[] shape)
        {
            Check.NotNull(data, nameof(data));
            int bits = Elements.Bits(element);
            if (bits == 0 || bits >= 8) throw new ArgumentException("Elements of " + element + " are not packed.", nameof(element));
            int per = 8 / bits;
            var bytes = new byte[(data.Length + per - 1) / per];
            for (int i = 0; i < data.Length; i++) bytes[i / per] |= (byte)((data[i] & ((1 << bits) - 1)) << (i % per * bits));
            return Checked(new Tensor(element, bytes, Extents(shape, data.Length), bytes.Length), data.Length);
        }

        /// <summary>Makes one of memory of the program, which must stay where it is, as long as it is, while the tensor is used.
        /// No shape: one dimension of all elements.</summary>
        public static Tensor Of(ElementType element, IntPtr data, long byteLength, params long[] shape)
        {
            if (byteLength < 0) throw new ArgumentOutOfRangeException(nameof(byteLength), byteLength, "It may not be negative.");
            if (data == IntPtr.Zero && byteLength > 0) throw new ArgumentNullException(nameof(data));
            int bits = Elements.Bits(element);
            if (bits == 0)
                throw new ArgumentException("Elements of " + element + " are not of one length; strings are given as an array.", nameof(element));
            var tensor = new Tensor(element, data, Extents(shape, byteLength / bits * 8 + byteLength % bits * 8 / bits), byteLength);
            if (Elements.Bytes(tensor.Count, bits) == byteLength) return tensor;
            throw new ArgumentException(byteLength + " bytes are not those of " + tensor + ".", nameof(byteLength));
        }

        private Tensor(ElementType element, IntPtr data, long[] shape, long byteLength) : this(element, shape, byteLength)
        {
            this.data = data;
        }

#if CAPSULEGRAPH_SPANS
        /// <summary>Makes one of memory, without a copy.</summary>
        public static Tensor Of<T>(ReadOnlyMemory<T> data, params long[] shape) where T : struct
        {
            ElementType element = Elements.Of<T>();
            long bytes = (long)data.Length * Elements.Size<T>();
            return Checked(new Tensor(element, () => data.Pin(), Extents(shape, data.Length), bytes), data.Length);
        }

        private Tensor(ElementType element, Func<MemoryHandle> pin, long[] shape, long byteLength) : this(element, shape, byteLength)
        {
            this.pin = pin;
        }

        /// <summary>The elements, where they are. A span of the library's memory may be read until the outputs are disposed: keep
        /// them in a using statement.</summary>
        public ReadOnlySpan<T> AsSpan<T>() where T : struct
        {
            Elements.CheckFits<T>(Element);
            if (pin != null) throw new InvalidOperationException("The tensor is of memory that the program has; read it there.");
            var own = array as T[];
            if (own != null) return own;
            if (array != null)
                throw new InvalidOperationException("The tensor is of an array of another type; read it there, or take ToArray.");
            if (Count > int.MaxValue)
                throw new InvalidOperationException("A span holds " + int.MaxValue + " elements, and there are " + Count + "; read Data.");
            return new ReadOnlySpan<T>((void*)Address(), (int)Count);
        }
#endif

        /// <summary>The type of its elements.</summary>
        public ElementType Element { get; }

        /// <summary>Extents, outermost first.</summary>
        public IReadOnlyList<long> Shape
        {
            get { return shape; }
        }

        /// <summary>Number of elements.</summary>
        public long Count { get; }

        /// <summary>Length of the elements in bytes; of strings their number.</summary>
        public long ByteLength { get; }

        /// <summary>Where the elements are, of a tensor of the library's memory: valid until the outputs are disposed. Of one that
        /// was made of an address, that address.</summary>
        public IntPtr Data
        {
            get
            {
                bool moves = array != null;
#if CAPSULEGRAPH_SPANS
                moves |= pin != null;
#endif
                if (moves) throw new InvalidOperationException("The tensor is of an array or memory, which has no fixed place.");
                return Address();
            }
        }

        /// <summary>The elements as an array: a copy, but of a tensor that was made of an array of T.</summary>
        public T[] ToArray<T>() where T : struct
        {
            Elements.CheckFits<T>(Element);
            var own = array as T[];
            if (own != null) return own;
            var copy = new T[Count];
            CopyTo(copy, Elements.Size<T>());
            return copy;
        }

        /// <summary>The bytes of the elements: a copy.</summary>
        public byte[] ToBytes()
        {
            if (Element == ElementType.String) throw new InvalidOperationException("Strings are no bytes; see ToStrings.");
            var copy = new byte[ByteLength];
            CopyTo(copy, 1);
            return copy;
        }

        /// <summary>Elements of less than a byte, one to a byte.</summary>
        public sbyte[] ToUnpacked()
        {
            int bits = Elements.Bits(Element);
            if (bits == 0 || bits >= 8) throw new InvalidOperationException("Elements of " + Element + " are not packed.");
            byte[] bytes = ToBytes();
            int per = 8 / bits;
            bool signed = Element == ElementType.Int4 || Element == ElementType.Int2;
            var codes = new sbyte[Count];
            for (int i = 0; i < codes.Length; i++)
            {
                int code = bytes[i / per] >> (i % per * bits) & ((1 << bits) - 1);
                codes[i] = (sbyte)(signed ? (sbyte)(code << (8 - bits)) >> (8 - bits) : code);
            }
            return codes;
        }

        /// <summary>The strings. Bytes that are no UTF-8 become U+FFFD.</summary>
        public string[] ToStrings()
        {
            if (Element != ElementType.String) throw new InvalidOperationException("Elements are " + Element + " and no strings.");
            if (array != null) return (string[])array;
            var texts = new string[Count];
            using (var use = new Use(owner))
            {
                var items = (capg_string*)Address();
                for (int i = 0; i < texts.Length; i++) texts[i] = Utf8.Read(items[i].data, items[i].len);
            }
            return texts;
        }

        /// <summary>Type and shape, such as Float32[2, 64].</summary>
        public override string ToString()
        {
            return Element + Elements.Show(shape);
        }

        /// <summary>As a call takes it; its memory stays where it is as long as `pins`.</summary>
        internal capg_tensor Raw(InputPins pins)
        {
            var raw = new capg_tensor();
            raw.dims = (long*)pins.Pin(shape);
            raw.rank = (UIntPtr)(uint)shape.Length;
            raw.element = (uint)Element;
            raw.data_len = (UIntPtr)(ulong)ByteLength;
            var texts = array as string[];
            raw.data = texts != null ? pins.Pin(pins.Texts(texts, "data")) : Start(pins);
            return raw;
        }

        /// <summary>The address of the elements, good as long as `pins`. Not of an array of strings.</summary>
        private void* Start(InputPins pins)
        {
            if (array != null) return pins.Elements(array);
#if CAPSULEGRAPH_SPANS
            if (pin != null) return pins.Keep(pin());
#endif
            return pins.Keep(owner, data);
        }

        private void CopyTo(Array copy, int size)
        {
            using (var pins = new InputPins()) Memory.Copy(Start(pins), copy, size, ByteLength);
        }

        private IntPtr Address()
        {
            if (owner != null && owner.IsDisposed) throw Use.Disposed(owner);
            return data;
        }

        private static Tensor Checked(Tensor tensor, long count)
        {
            if (tensor.Count == count) return tensor;
            throw new ArgumentException("The shape " + Elements.Show(tensor.shape) + " has " + tensor.Count + " elements, and there are "
                + count + ".", nameof(shape));
        }

        private static long[] Extents(long[] shape, long count)
        {
            return shape == null || shape.Length == 0 ? new[] { count } : (long[])shape.Clone();
        }

        private static long[] Extents(capg_tensor raw)
        {
            var extents = new long[(int)raw.rank.ToUInt32()];
            for (int i = 0; i < extents.Length; i++) extents[i] = raw.dims[i];
            return extents;
        }
    }

    internal static unsafe class Memory
    {
        /// <summary>Copies to an array of elements of that size. ArgumentOutOfRangeException where there is no room.</summary>
        internal static void Copy(void* from, Array to, int size, long bytes)
        {
            if (bytes == 0) return;
            var flags = to as bool[];
            if (flags != null)
            {
                // Not every runtime pins them.
                for (long i = 0; i < bytes; i++) flags[i] = ((byte*)from)[i] != 0;
                return;
            }
            GCHandle handle = GCHandle.Alloc(to, GCHandleType.Pinned);
            try
            {
                Buffer.MemoryCopy(from, (void*)handle.AddrOfPinnedObject(), to.LongLength * size, bytes);
            }
            finally
            {
                handle.Free();
            }
        }
    }
}
