using System;
using System.Collections;
using System.Collections.Generic;
using System.Linq;

namespace CapsuleGraph
{
    /// <summary>What a run gave: its outputs by name, in the order in which they were asked for. Their memory is the library's, and
    /// is not copied; it goes when this is disposed.</summary>
    public sealed unsafe class Outputs : Resource, IReadOnlyDictionary<string, Value>
    {
        private readonly List<KeyValuePair<string, Value>> values = new List<KeyValuePair<string, Value>>();

        internal Outputs(Handle handle) : base(handle)
        {
            using (var use = new Use(handle))
            {
                var raw = (capg_values*)use.Pointer;
                UIntPtr count;
                capg_error* error;
                Failure.Check(Native.capg_values_count(raw, &count, &error), error);
                for (ulong i = 0; i < count.ToUInt64(); i++)
                {
                    capg_value value;
                    Failure.Check(Native.capg_values_view(raw, (UIntPtr)i, &value, &error), error);
                    var tensors = new Tensor[(int)value.count.ToUInt32()];
                    for (int at = 0; at < tensors.Length; at++) tensors[at] = new Tensor(value.tensors[at], handle);
                    var made = new Value((ValueKind)value.kind, (ElementType)value.element, tensors);
                    values.Add(new KeyValuePair<string, Value>(Utf8.Read(value.name, value.name_len), made));
                }
            }
        }

        internal override string Describe()
        {
            return "Outputs: " + string.Join(", ", values.Select(pair => pair.Key + ": " + pair.Value));
        }

        /// <summary>Number of outputs.</summary>
        public int Count
        {
            get { return values.Count; }
        }

        /// <summary>The names, in order.</summary>
        public IEnumerable<string> Keys
        {
            get { return values.Select(pair => pair.Key); }
        }

        /// <summary>The values, in order.</summary>
        public IEnumerable<Value> Values
        {
            get { return values.Select(pair => pair.Value); }
        }

        /// <summary>The output of that name.</summary>
        public Value this[string name]
        {
            get
            {
                Value value;
                if (TryGetValue(name, out value)) return value;
                throw new KeyNotFoundException("There is no output \"" + name + "\"; there are: " + string.Join(", ", Keys));
            }
        }

        /// <summary>Whether there is an output of that name.</summary>
        public bool ContainsKey(string name)
        {
            Value value;
            return TryGetValue(name, out value);
        }

        /// <summary>The output of that name, where there is one.</summary>
        public bool TryGetValue(string name, out Value value)
        {
            foreach (KeyValuePair<string, Value> pair in values)
            {
                value = pair.Value;
                if (pair.Key == name) return true;
            }
            value = null;
            return false;
        }

        /// <summary>The tensor of that name.</summary>
        public Tensor Tensor(string name)
        {
            return this[name].Tensor;
        }

        /// <summary>Names and values, in order.</summary>
        public IEnumerator<KeyValuePair<string, Value>> GetEnumerator()
        {
            return values.GetEnumerator();
        }

        IEnumerator IEnumerable.GetEnumerator()
        {
            return GetEnumerator();
        }
    }
}
