using System;
using System.Collections.Generic;
using System.Linq;

namespace CapsuleGraph
{
    /// <summary>How the tensors of a capsule are arranged.</summary>
    public enum Layout
    {
        /// <summary>Row after row in the encoding that the file holds.</summary>
        Source = (int)Native.CAPG_LAYOUT_SOURCE,
        /// <summary>As kernels read them.</summary>
        Stored = (int)Native.CAPG_LAYOUT_STORED,
        /// <summary>Decoded to floats, row after row.</summary>
        F32 = (int)Native.CAPG_LAYOUT_F32,
    }

    /// <summary>A tensor of a capsule. Its memory is the capsule's, and goes when that is disposed.</summary>
    public sealed unsafe class CapsuleTensor
    {
        private readonly Handle owner;
        private readonly IntPtr data;

        internal CapsuleTensor(Handle owner, capg_tensor_view raw)
        {
            this.owner = owner;
            data = (IntPtr)raw.data;
            Name = Utf8.Read(raw.name, raw.name_len);
            Encoding = Utf8.Read(raw.encoding, raw.encoding_len);
            Layout = Utf8.Read(raw.layout, raw.layout_len);
            ByteLength = (long)raw.data_len.ToUInt64();
            var shape = new long[(int)raw.dimensions.ToUInt32()];
            for (int i = 0; i < shape.Length; i++) shape[i] = (long)raw.shape[i];
            Shape = shape;
        }

        /// <summary>Its name.</summary>
        public string Name { get; }

        /// <summary>How its elements are stored: "f32", "f16", "q4_k", ...; of ONNX models "float32", "int64", ...</summary>
        public string Encoding { get; }

        /// <summary>"rows", "packed8", or "plain" of an ONNX model.</summary>
        public string Layout { get; }

        /// <summary>Extents in elements, outermost first.</summary>
        public IReadOnlyList<long> Shape { get; }

        /// <summary>Number of bytes.</summary>
        public long ByteLength { get; }

        /// <summary>Where the bytes are; valid until the capsule is disposed.</summary>
        public IntPtr Data
        {
            get
            {
                if (owner.IsDisposed) throw Use.Disposed(owner);
                return data;
            }
        }

        /// <summary>The bytes: a copy.</summary>
        public byte[] ToBytes()
        {
            return Copy<byte>(1);
        }

        /// <summary>The elements of encoding "f32" or "float32": a copy.</summary>
        public float[] ToFloats()
        {
            CheckFloats();
            return Copy<float>(4);
        }

#if CAPSULEGRAPH_SPANS
        /// <summary>The bytes, where they are; to be read until the capsule is disposed. A span keeps nothing alive: what reads it
        /// belongs inside the using statement of the capsule.</summary>
        public ReadOnlySpan<byte> Bytes
        {
            get { return new ReadOnlySpan<byte>((void*)Data, checked((int)ByteLength)); }
        }

        /// <summary>The elements of encoding "f32" or "float32", where they are; likewise.</summary>
        public ReadOnlySpan<float> Floats
        {
            get
            {
                CheckFloats();
                return new ReadOnlySpan<float>((void*)Data, checked((int)(ByteLength / 4)));
            }
        }
#endif

        /// <summary>Name, encoding and shape, such as token_embd.weight: q4_1[49152, 576].</summary>
        public override string ToString()
        {
            return Name + ": " + Encoding + "[" + string.Join(", ", Shape) + "]";
        }

        private T[] Copy<T>(int size) where T : struct
        {
            using (var use = new Use(owner))
            {
                var copy = new T[ByteLength / size];
                Memory.Copy((void*)data, copy, size, ByteLength);
                return copy;
            }
        }

        private void CheckFloats()
        {
            if (Encoding == "f32" || Encoding == "float32") return;
            throw new InvalidOperationException("The elements of " + Name + " are " + Encoding
                + "; fetch its capsule with Layout.F32.");
        }
    }

    /// <summary>A capsule's tensors, by name; they stay usable after the model was disposed.</summary>
    public sealed unsafe class Capsule : Resource
    {
        internal Capsule(Handle handle, string id) : base(handle)
        {
            Id = id;
        }

        /// <summary>Its id, such as "block.0.attn".</summary>
        public string Id { get; }

        internal override string Describe()
        {
            return "Capsule \"" + Id + "\"";
        }

        /// <summary>"full" and "pinned": the source's bits; "light" and "nested": the mini's coarser form.</summary>
        public string Precision
        {
            get
            {
                using (var capsule = new Use(Handle))
                {
                    byte* data;
                    UIntPtr length;
                    capg_error* error;
                    Failure.Check(Native.capg_capsule_precision((capg_capsule*)capsule.Pointer, &data, &length, &error), error);
                    return Utf8.Read(data, length);
                }
            }
        }

        /// <summary>Its tensors, in the order of use.</summary>
        public IReadOnlyList<CapsuleTensor> Tensors
        {
            get
            {
                using (var use = new Use(Handle))
                {
                    var capsule = (capg_capsule*)use.Pointer;
                    UIntPtr count;
                    capg_error* error;
                    Failure.Check(Native.capg_capsule_tensor_count(capsule, &count, &error), error);
                    var tensors = new CapsuleTensor[(int)count.ToUInt32()];
                    for (int i = 0; i < tensors.Length; i++)
                    {
                        var raw = new capg_tensor_view();
                        raw.struct_size = (UIntPtr)(uint)sizeof(capg_tensor_view);
                        Failure.Check(Native.capg_capsule_tensor(capsule, (UIntPtr)(uint)i, &raw, &error), error);
                        tensors[i] = new CapsuleTensor(Handle, raw);
                    }
                    return tensors;
                }
            }
        }

        /// <summary>The tensor of that name.</summary>
        public CapsuleTensor this[string name]
        {
            get
            {
                IReadOnlyList<CapsuleTensor> tensors = Tensors;
                CapsuleTensor found = tensors.FirstOrDefault(tensor => tensor.Name == name);
                if (found != null) return found;
                throw new KeyNotFoundException("Capsule \"" + Id + "\" has no tensor \"" + name + "\"; it has "
                    + string.Join(", ", tensors.Select(tensor => tensor.Name)));
            }
        }
    }

    /// <summary>Capsules on their way, which a thread of the library takes out meanwhile.</summary>
    public sealed unsafe class Fetch : Resource
    {
        private readonly string[] ids;

        internal Fetch(Handle handle, string[] ids) : base(handle)
        {
            this.ids = ids;
        }

        /// <summary>How many were asked for.</summary>
        public int Count
        {
            get { return ids.Length; }
        }

        internal override string Describe()
        {
            return "Fetch of " + string.Join(", ", ids);
        }

        /// <summary>How many have come, one that failed included; never waits.</summary>
        public int Ready
        {
            get
            {
                using (var fetch = new Use(Handle))
                {
                    UIntPtr come;
                    capg_error* error;
                    Failure.Check(Native.capg_fetch_poll((capg_fetch*)fetch.Pointer, &come, &error), error);
                    return (int)come.ToUInt32();
                }
            }
        }

        /// <summary>The capsule of that place in the order that was asked for, once; <see cref="Status.Busy"/> where it has not come.</summary>
        public Capsule Take(int index)
        {
            using (var fetch = new Use(Handle))
            {
                var handle = new Handle(Kind.Capsule);
                capg_capsule* raw;
                capg_error* error;
                UIntPtr number = (UIntPtr)Check.Count(index, nameof(index));
                Failure.Check(Native.capg_fetch_take((capg_fetch*)fetch.Pointer, number, &raw, &error), error);
                return new Capsule(handle.Take(raw), ids[index]);
            }
        }
    }
}
