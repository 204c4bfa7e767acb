// Tensors as they are made and read, without a model: nothing reads or writes past their memory.

using System;
using System.Linq;
using System.Runtime.InteropServices;

namespace CapsuleGraph.Tests
{
    internal static class TensorTests
    {
        private struct Bits
        {
            internal ushort Value;
        }

        /// What a runtime gives eight bytes in native memory and two in an array.
        private struct Flags
        {
            private readonly bool first, second;

            internal Flags(bool first, bool second)
            {
                this.first = first;
                this.second = second;
            }

            public override string ToString()
            {
                return first + " " + second;
            }
        }

        public static void ElementsOfLessThanAByte()
        {
            sbyte[] four = Enumerable.Range(-8, 16).Select(i => (sbyte)i).ToArray(), two = { 3, 0, 1, 2, 3 };
            Expect.Sequence(Tensor.Packed(ElementType.Int4, four).ToUnpacked(), four);
            Expect.Sequence(Tensor.Packed(ElementType.UInt2, two).ToUnpacked(), two);
            Expect.Equal(Tensor.Packed(ElementType.UInt2, two).ByteLength, 2L);
            Expect.Sequence(Tensor.Packed(ElementType.UInt4, new sbyte[] { 1, 2 }).ToBytes(), new byte[] { 0x21 });
        }

        public static void TypesOfTheSameBits()
        {
            ushort[] numbers = { 0x3c00, 0x4000 };
            Tensor half = Tensor.Of(ElementType.Float16, numbers, 2, 1);
            Expect.Equal(half.ToString(), "Float16[2, 1]");
            Expect.Sequence(half.ToArray<ushort>(), numbers);
            Expect.Sequence(half.ToArray<Bits>().Select(one => one.Value), numbers);
            Tensor structs = Tensor.Of(ElementType.Float16, numbers.Select(one => new Bits { Value = one }).ToArray());
            Expect.Sequence(structs.ToArray<ushort>(), numbers);
            Expect.Sequence(structs.ToBytes(), new byte[] { 0, 0x3c, 0, 0x40 });
            Expect.Equal(Tensor.Of(ElementType.Complex128, new Guid[2]).ToBytes().Length, 32);
            Expect.Throws<ArgumentException>(() => half.ToArray<float>(), "Float16");
            Expect.Throws<ArgumentException>(() => Tensor.Of(ElementType.Float32, new int[1]));
            Expect.Sequence(Tensor.Of(new[] { true, false, true }).ToArray<bool>(), new[] { true, false, true });
            Expect.Sequence(Tensor.Of(new[] { true, false }).ToBytes(), new byte[] { 1, 0 });
        }

        public static void TypesThatAreNotPlainBits()
        {
            Expect.Throws<ArgumentException>(() => Tensor.Of(ElementType.Float8E5M2, new char[2]), "Char does not hold such");
            Expect.Throws<ArgumentException>(() => Tensor.Of(ElementType.BFloat16, new char[2]), "Char does not hold such");
            Flags[] flags = { new Flags(true, false) };
            Expect.Throws<ArgumentException>(() => Tensor.Of(ElementType.Complex64, flags), "Flags does not hold such");
            Expect.Throws<ArgumentException>(() => Tensor.Of(ElementType.Complex64, new DateTime[2]), "DateTime does not hold such");
            Expect.Throws<ArgumentException>(() => Tensor.Of(ElementType.Float8E5M2, new DayOfWeek[2]), "DayOfWeek does not hold such");
            Expect.Throws<ArgumentException>(() => Tensor.Of(new DateTime[1]), "DateTime: take numbers");
            Expect.Throws<ArgumentException>(() => Tensor.Of(new Bits[1]), "name the one whose bits it has");
            Expect.Throws<ArgumentException>(() => Tensor.Of((ElementType)77, new DateTime[1]));
        }

        public static void Shapes()
        {
            Expect.Throws<ArgumentException>(() => Tensor.Of(new float[4], 5), "has 5 elements");
            Expect.Throws<ArgumentException>(() => Tensor.Of(new float[4], -2, -2), "[-2, -2] is negative");
            Expect.Throws<ArgumentException>(() => Tensor.Of(new float[4], long.MaxValue, 3), "more elements than can be counted");
            Expect.Equal(Tensor.Of(new float[0], long.MaxValue, long.MaxValue, 0).Count, 0L);
            Expect.Sequence(Tensor.Of(new float[4], null).Shape, new[] { 4L });
            Expect.Throws<ArgumentNullException>(() => Value.Maps(new Value[] { null }), "maps");
            Expect.Equal(Value.Sequence(new[] { Tensor.Scalar(1f) }).ToString(), "Sequence(Float32[])");
            Expect.Equal(((Value)Tensor.Of(new long[4])).ToString(), "Int64[4]");
        }

        public static void AddressesAreHeldAgainstTheirShape()
        {
            IntPtr memory = Marshal.AllocHGlobal(64);
            try
            {
                for (int i = 0; i < 16; i++) Marshal.WriteInt32(memory, 4 * i, i);
                Expect.Sequence(Tensor.Of(ElementType.Int32, memory, 64, 2, 8).ToArray<int>(), Enumerable.Range(0, 16));
                Expect.Sequence(Tensor.Of(ElementType.Int32, memory, 64).Shape, new[] { 16L });
                Expect.Sequence(Tensor.Of(ElementType.Int4, memory, 3, null).Shape, new[] { 6L });
                Expect.Equal(Tensor.Of(ElementType.Int4, memory, 3, 5).ToUnpacked().Length, 5);
                Expect.Equal(Tensor.Of(ElementType.Float32, IntPtr.Zero, 0, 0, 4).ToArray<float>().Length, 0);
                Refuse(memory, 64, 1);
                Refuse(memory, 4, 100000000);
                Refuse(memory, 64, long.MaxValue / 4);
                Refuse(memory, 63);
                Expect.Throws<ArgumentOutOfRangeException>(() => Tensor.Of(ElementType.Int32, memory, -4, 1), "byteLength");
                Expect.Throws<ArgumentNullException>(() => Tensor.Of(ElementType.Int32, IntPtr.Zero, 4, 1), "data");
                Expect.Throws<ArgumentException>(() => Tensor.Of(ElementType.String, memory, 4, 4), "strings are given as an array");
                Expect.Throws<ArgumentException>(() => Tensor.Of((ElementType)77, memory, 64), "77");
            }
            finally
            {
                Marshal.FreeHGlobal(memory);
            }
        }

        private static void Refuse(IntPtr memory, long bytes, params long[] shape)
        {
            Expect.Throws<ArgumentException>(() => Tensor.Of(ElementType.Int32, memory, bytes, shape), bytes + " bytes are not those of Int32[");
        }
    }
}
