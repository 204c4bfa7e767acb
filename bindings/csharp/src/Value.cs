using System;
using System.Collections.Generic;
using System.Linq;

namespace CapsuleGraph
{
    /// <summary>What a value is made of.</summary>
    public enum ValueKind
    {
        /// <summary>A tensor.</summary>
        Tensor = (int)Native.CAPG_VALUE_TENSOR,
        /// <summary>A sequence of tensors.</summary>
        Sequence = (int)Native.CAPG_VALUE_SEQUENCE,
        /// <summary>An absent optional value; of a port: an optional value.</summary>
        None = (int)Native.CAPG_VALUE_NONE,
        /// <summary>A map, as a tensor of its keys and one of its values.</summary>
        Map = (int)Native.CAPG_VALUE_MAP,
        /// <summary>A sequence of maps, two tensors each.</summary>
        SequenceOfMaps = (int)Native.CAPG_VALUE_SEQUENCE_OF_MAPS,
        /// <summary>Of a port only: a sparse tensor, which cannot be run with.</summary>
        Sparse = (int)Native.CAPG_VALUE_SPARSE,
    }

    /// <summary>An input or output of a run. A <see cref="CapsuleGraph.Tensor"/> becomes one by itself.</summary>
    public sealed class Value
    {
        private readonly Tensor[] tensors;

        internal Value(ValueKind kind, ElementType element, Tensor[] tensors)
        {
            Kind = kind;
            Element = element;
            this.tensors = tensors;
        }

        /// <summary>An optional value that is absent.</summary>
        public static Value None { get; } = new Value(ValueKind.None, ElementType.None, new Tensor[0]);

        /// <summary>What it is made of.</summary>
        public ValueKind Kind { get; }

        /// <summary>The type of its tensors' elements, of a map of its values.</summary>
        public ElementType Element { get; }

        /// <summary>Its tensors: one; those of a sequence; two of a map, keys and values; two for each map of a sequence.</summary>
        public IReadOnlyList<Tensor> Tensors
        {
            get { return tensors; }
        }

        /// <summary>The tensor, of a value that is one.</summary>
        public Tensor Tensor
        {
            get { return tensors[Need(ValueKind.Tensor)]; }
        }

        /// <summary>A tensor as a value.</summary>
        public static implicit operator Value(Tensor tensor)
        {
            return new Value(ValueKind.Tensor, Check.NotNull(tensor, nameof(tensor)).Element, new[] { tensor });
        }

        /// <summary>A sequence. element: of one that is empty.</summary>
        public static Value Sequence(IEnumerable<Tensor> tensors, ElementType element = ElementType.None)
        {
            Tensor[] items = Check.NotNull(tensors, nameof(tensors)).Select(tensor => Check.NotNull(tensor, nameof(tensors))).ToArray();
            return new Value(ValueKind.Sequence, items.Length > 0 ? items[0].Element : element, items);
        }

        /// <summary>A map of keys (Int64 or strings) and as many values.</summary>
        public static Value Map(Tensor keys, Tensor values)
        {
            var pair = new[] { Check.NotNull(keys, nameof(keys)), Check.NotNull(values, nameof(values)) };
            return new Value(ValueKind.Map, values.Element, pair);
        }

        /// <summary>A sequence of maps. element: of the values of one that is empty.</summary>
        public static Value Maps(IEnumerable<Value> maps, ElementType element = ElementType.None)
        {
            Tensor[] all = Check.NotNull(maps, nameof(maps))
                .SelectMany(map => Check.NotNull(map, nameof(maps)).tensors.Skip(map.Need(ValueKind.Map))).ToArray();
            return new Value(ValueKind.SequenceOfMaps, all.Length > 0 ? all[1].Element : element, all);
        }

        /// <summary>The maps of a sequence of maps, each as a value.</summary>
        public IReadOnlyList<Value> ToMaps()
        {
            Need(ValueKind.SequenceOfMaps);
            return Enumerable.Range(0, tensors.Length / 2).Select(i => Map(tensors[2 * i], tensors[2 * i + 1])).ToArray();
        }

        /// <summary>A map as a dictionary: a copy. TKey: long or string.</summary>
        public Dictionary<TKey, TValue> ToDictionary<TKey, TValue>()
        {
            Need(ValueKind.Map);
            var keys = (TKey[])ToArray(tensors[0], typeof(TKey));
            var values = (TValue[])ToArray(tensors[1], typeof(TValue));
            var map = new Dictionary<TKey, TValue>();
            for (int i = 0; i < keys.Length; i++) map[keys[i]] = values[i];
            return map;
        }

        /// <summary>Of a tensor its type and shape, of others the kind and the tensors.</summary>
        public override string ToString()
        {
            string inner = string.Join<Tensor>(", ", tensors);
            return Kind == ValueKind.Tensor ? inner : Kind + "(" + inner + ")";
        }

        private static Array ToArray(Tensor tensor, Type type)
        {
            if (type == typeof(string)) return tensor.ToStrings();
            if (type == typeof(long)) return tensor.ToArray<long>();
            if (type == typeof(float)) return tensor.ToArray<float>();
            if (type == typeof(double)) return tensor.ToArray<double>();
            throw new ArgumentException("Maps hold long, string, float or double, and no " + type.Name + ".");
        }

        /// <summary>Refuses another kind; gives 0.</summary>
        private int Need(ValueKind kind)
        {
            if (Kind != kind) throw new InvalidOperationException("The value is of kind " + Kind + ", not " + kind + ".");
            return 0;
        }
    }

    /// <summary>An input or output of an ONNX model.</summary>
    public sealed class Port
    {
        internal Port(string name, ValueKind kind, ElementType element, long[] shape, string[] dimensionNames, bool isOptional)
        {
            Name = name;
            Kind = kind;
            Element = element;
            Shape = shape;
            DimensionNames = dimensionNames;
            IsOptional = isOptional;
        }

        /// <summary>Its name.</summary>
        public string Name { get; }

        /// <summary>What its values are made of; None: an optional value.</summary>
        public ValueKind Kind { get; }

        /// <summary>The type of its elements; None where the model does not say.</summary>
        public ElementType Element { get; }

        /// <summary>Extents, outermost first, -1 of those that may be any; null where even their number is open.</summary>
        public IReadOnlyList<long> Shape { get; }

        /// <summary>The name of each extent that may be any, "" where there is none: extents of one name are equal.</summary>
        public IReadOnlyList<string> DimensionNames { get; }

        /// <summary>Whether it is an input that has a default and may be left out.</summary>
        public bool IsOptional { get; }

        /// <summary>Name, type and shape, such as x: Float32[n, 4].</summary>
        public override string ToString()
        {
            if (Shape == null) return Name + ": " + Element;
            IEnumerable<string> extents = Shape.Select((extent, i) =>
                extent >= 0 ? extent.ToString() : DimensionNames[i].Length > 0 ? DimensionNames[i] : "?");
            return Name + ": " + Element + "[" + string.Join(", ", extents) + "]";
        }
    }
}
