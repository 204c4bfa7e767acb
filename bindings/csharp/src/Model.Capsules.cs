using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;

namespace CapsuleGraph
{
    public sealed unsafe partial class Model
    {
        /// <summary>The names of its capsules, in the order of computation.</summary>
        public IReadOnlyList<string> CapsuleIds
        {
            get
            {
                using (var use = new Use(Handle))
                {
                    var model = (capg_model*)use.Pointer;
                    UIntPtr count;
                    capg_error* error;
                    Failure.Check(Native.capg_model_capsule_count(model, &count, &error), error);
                    var ids = new string[(int)count.ToUInt32()];
                    for (int i = 0; i < ids.Length; i++)
                    {
                        byte* data;
                        UIntPtr length;
                        Failure.Check(Native.capg_model_capsule_id(model, (UIntPtr)(uint)i, &data, &length, &error), error);
                        ids[i] = Utf8.Read(data, length);
                    }
                    return ids;
                }
            }
        }

        /// <summary>Takes a capsule out: as the mini has it in mode fast, else at full precision. Every tensor is held against its
        /// checksum.</summary>
        public Capsule Fetch(string capsule, Layout layout = Layout.Source)
        {
            byte[] id = Utf8.Bytes(capsule, nameof(capsule));
            using (var model = new Use(Handle))
            fixed (byte* data = id)
            {
                var handle = new Handle(Kind.Capsule);
                capg_capsule* raw;
                capg_error* error;
                uint status = Native.capg_model_fetch((capg_model*)model.Pointer, data, Utf8.Length(id), (uint)layout, &raw, &error);
                Failure.Check(status, error);
                return new Capsule(handle.Take(raw), capsule);
            }
        }

        /// <summary>Begins to take capsules out, in this order, on a thread of the library.</summary>
        public Fetch BeginFetch(IReadOnlyList<string> capsules, Layout layout = Layout.Source)
        {
            string[] names = Check.NotNull(capsules, nameof(capsules)).ToArray();
            using (var model = new Use(Handle))
            using (var pins = new Pins())
            {
                var ids = (capg_string*)pins.Pin(pins.Texts(names, nameof(capsules)));
                var handle = new Handle(Kind.Fetch);
                capg_fetch* raw;
                capg_error* error;
                uint status = Native.capg_model_fetch_begin(
                    (capg_model*)model.Pointer, ids, (UIntPtr)(uint)names.Length, (uint)layout, &raw, &error);
                Failure.Check(status, error);
                return new Fetch(handle.Take(raw), names);
            }
        }

        /// <summary>A hint that these capsules, by number, are needed next.</summary>
        public void Prefetch(IEnumerable<int> capsules)
        {
            Check.NotNull(capsules, nameof(capsules));
            UIntPtr[] numbers = capsules.Select(one => (UIntPtr)Check.Count(one, nameof(capsules))).ToArray();
            using (var model = new Use(Handle))
            using (var pins = new Pins())
            {
                var data = (UIntPtr*)pins.Pin(numbers);
                capg_error* error;
                uint status = Native.capg_model_prefetch((capg_model*)model.Pointer, data, (UIntPtr)(uint)numbers.Length, &error);
                Failure.Check(status, error);
            }
        }

        /// <summary>Writes what a capsule of an ONNX model computes as an ONNX model of its own, in mode fast as the mini has it; says
        /// in JSON which files.</summary>
        public string ExportCapsule(string capsule, string target, CancellationToken cancellationToken = default(CancellationToken))
        {
            byte[] id = Utf8.Bytes(capsule, nameof(capsule)), path = Utf8.Bytes(target, nameof(target));
            using (var model = new Use(Handle))
            using (var cancel = new CancelScope(cancellationToken))
            fixed (byte* name = id, file = path)
            {
                capg_text* summary;
                capg_error* error;
                uint status = Native.capg_model_export_capsule((capg_model*)model.Pointer, name, Utf8.Length(id), file,
                    Utf8.Length(path), cancel.Pointer, &summary, &error);
                cancel.Check(status, error);
                return Returned.Text(summary);
            }
        }
    }
}
