using System;
using System.Collections.Generic;
using System.Linq;
using System.Reflection;
using System.Runtime.InteropServices;

namespace CapsuleGraph
{
    /// <summary>The type of a tensor's elements.</summary>
    public enum ElementType
    {
        /// <summary>Not said.</summary>
        None = (int)Native.CAPG_ELEMENT_NONE,
        /// <summary>float.</summary>
        Float32 = (int)Native.CAPG_ELEMENT_FLOAT32,
        /// <summary>byte.</summary>
        UInt8 = (int)Native.CAPG_ELEMENT_UINT8,
        /// <summary>sbyte.</summary>
        Int8 = (int)Native.CAPG_ELEMENT_INT8,
        /// <summary>ushort.</summary>
        UInt16 = (int)Native.CAPG_ELEMENT_UINT16,
        /// <summary>short.</summary>
        Int16 = (int)Native.CAPG_ELEMENT_INT16,
        /// <summary>int.</summary>
        Int32 = (int)Native.CAPG_ELEMENT_INT32,
        /// <summary>long.</summary>
        Int64 = (int)Native.CAPG_ELEMENT_INT64,
        /// <summary>string.</summary>
        String = (int)Native.CAPG_ELEMENT_STRING,
        /// <summary>bool.</summary>
        Bool = (int)Native.CAPG_ELEMENT_BOOL,
        /// <summary>Half precision; in C# the ushort of the same bits, or any type of two bytes.</summary>
        Float16 = (int)Native.CAPG_ELEMENT_FLOAT16,
        /// <summary>double.</summary>
        Float64 = (int)Native.CAPG_ELEMENT_FLOAT64,
        /// <summary>uint.</summary>
        UInt32 = (int)Native.CAPG_ELEMENT_UINT32,
        /// <summary>ulong.</summary>
        UInt64 = (int)Native.CAPG_ELEMENT_UINT64,
        /// <summary>Two floats, real and imaginary; any type of eight bytes.</summary>
        Complex64 = (int)Native.CAPG_ELEMENT_COMPLEX64,
        /// <summary>Two doubles, real and imaginary; any type of sixteen bytes.</summary>
        Complex128 = (int)Native.CAPG_ELEMENT_COMPLEX128,
        /// <summary>bfloat16; any type of two bytes.</summary>
        BFloat16 = (int)Native.CAPG_ELEMENT_BFLOAT16,
        /// <summary>float8e4m3fn; any type of one byte.</summary>
        Float8E4M3FN = (int)Native.CAPG_ELEMENT_FLOAT8E4M3FN,
        /// <summary>float8e4m3fnuz; any type of one byte.</summary>
        Float8E4M3FNUZ = (int)Native.CAPG_ELEMENT_FLOAT8E4M3FNUZ,
        /// <summary>float8e5m2; any type of one byte.</summary>
        Float8E5M2 = (int)Native.CAPG_ELEMENT_FLOAT8E5M2,
        /// <summary>float8e5m2fnuz; any type of one byte.</summary>
        Float8E5M2FNUZ = (int)Native.CAPG_ELEMENT_FLOAT8E5M2FNUZ,
        /// <summary>uint4, two to a byte, the first in the low bits.</summary>
        UInt4 = (int)Native.CAPG_ELEMENT_UINT4,
        /// <summary>int4, two to a byte.</summary>
        Int4 = (int)Native.CAPG_ELEMENT_INT4,
        /// <summary>float4e2m1, two to a byte.</summary>
        Float4E2M1 = (int)Native.CAPG_ELEMENT_FLOAT4E2M1,
        /// <summary>float8e8m0; any type of one byte.</summary>
        Float8E8M0 = (int)Native.CAPG_ELEMENT_FLOAT8E8M0,
        /// <summary>uint2, four to a byte, the first in the lowest bits.</summary>
        UInt2 = (int)Native.CAPG_ELEMENT_UINT2,
        /// <summary>int2, four to a byte.</summary>
        Int2 = (int)Native.CAPG_ELEMENT_INT2,
    }

    internal static class Elements
    {
        private static readonly Dictionary<Type, ElementType> Types = new Dictionary<Type, ElementType>
        {
            { typeof(float), ElementType.Float32 },
            { typeof(byte), ElementType.UInt8 },
            { typeof(sbyte), ElementType.Int8 },
            { typeof(ushort), ElementType.UInt16 },
            { typeof(short), ElementType.Int16 },
            { typeof(int), ElementType.Int32 },
            { typeof(long), ElementType.Int64 },
            { typeof(bool), ElementType.Bool },
            { typeof(double), ElementType.Float64 },
            { typeof(uint), ElementType.UInt32 },
            { typeof(ulong), ElementType.UInt64 },
        };

        /// <summary>Bits of an element; 0 of strings and of types that this release does not know.</summary>
        internal static int Bits(ElementType element)
        {
            switch (element)
            {
                case ElementType.UInt2:
                case ElementType.Int2:
                    return 2;
                case ElementType.UInt4:
                case ElementType.Int4:
                case ElementType.Float4E2M1:
                    return 4;
                case ElementType.UInt8:
                case ElementType.Int8:
                case ElementType.Bool:
                case ElementType.Float8E4M3FN:
                case ElementType.Float8E4M3FNUZ:
                case ElementType.Float8E5M2:
                case ElementType.Float8E5M2FNUZ:
                case ElementType.Float8E8M0:
                    return 8;
                case ElementType.UInt16:
                case ElementType.Int16:
                case ElementType.Float16:
                case ElementType.BFloat16:
                    return 16;
                case ElementType.Float32:
                case ElementType.Int32:
                case ElementType.UInt32:
                    return 32;
                case ElementType.Float64:
                case ElementType.Int64:
                case ElementType.UInt64:
                case ElementType.Complex64:
                    return 64;
                case ElementType.Complex128:
                    return 128;
                default:
                    return 0;
            }
        }

        /// <summary>Elements of a shape.</summary>
        internal static long Count(long[] shape)
        {
            if (shape.Any(extent => extent < 0))
                throw new ArgumentException("An extent of " + Show(shape) + " is negative.", nameof(shape));
            if (shape.Contains(0)) return 0;
            long count = 1;
            foreach (long extent in shape)
            {
                if (extent > long.MaxValue / count)
                    throw new ArgumentException("The shape " + Show(shape) + " has more elements than can be counted.", nameof(shape));
                count *= extent;
            }
            return count;
        }

        /// <summary>Bytes that so many elements take; -1 where that is past what can be counted.</summary>
        internal static long Bytes(long count, int bits)
        {
            if (bits < 8) return count / (8 / bits) + (count % (8 / bits) == 0 ? 0 : 1);
            return count > long.MaxValue / (bits / 8) ? -1 : count * (bits / 8);
        }

        /// <summary>A shape, such as [2, 64].</summary>
        internal static string Show(long[] shape)
        {
            return "[" + string.Join(", ", shape) + "]";
        }

        /// <summary>The element type that T is.</summary>
        internal static ElementType Of<T>()
        {
            ElementType found;
            if (Types.TryGetValue(typeof(T), out found)) return found;
            throw new ArgumentException("No element type is C#'s " + typeof(T).Name + (Size<T>() == 0
                ? ": take numbers, bool or string." : "; name the one whose bits it has: Tensor.Of(ElementType, data, shape)."));
        }

        /// <summary>Refuses another type than the element's own, or, where C# has none, one of another size.</summary>
        internal static void CheckFits<T>(ElementType element)
        {
            bool own = Types.ContainsValue(element);
            ElementType given;
            if (own && Types.TryGetValue(typeof(T), out given) && given == element) return;
            if (!own && Bits(element) > 0 && Bits(element) == Size<T>() * 8) return;
            throw new ArgumentException("Elements are " + element + ", and " + typeof(T).Name + " does not hold such.");
        }

        /// <summary>Bytes of a T in an array; 0 where it is not plain bits that can be read where they are.</summary>
        internal static int Size<T>()
        {
            return Sizes<T>.Value;
        }

        private static class Sizes<T>
        {
            internal static readonly int Value = typeof(T) == typeof(bool) ? 1 : IsPlain(typeof(T)) ? Marshal.SizeOf(typeof(T)) : 0;
        }

        /// <summary>Numbers, and structs of nothing else. The runtime would give others (char, bool, DateTime, enums) another size
        /// in native memory than in arrays, or none.</summary>
        private static bool IsPlain(Type type)
        {
            if (type.IsPrimitive) return type != typeof(bool) && type != typeof(char);
            if (!type.IsValueType || type.IsEnum || type.IsGenericType || type.IsAutoLayout) return false;
            const BindingFlags Own = BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic;
            return type.GetFields(Own).All(field => IsPlain(field.FieldType));
        }
    }
}
