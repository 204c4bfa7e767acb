using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;

namespace CapsuleGraph
{
    public sealed unsafe partial class Model
    {
        /// <summary>What an ONNX model takes.</summary>
        public IReadOnlyList<Port> Inputs
        {
            get { return Ports(Native.CAPG_PORT_INPUT); }
        }

        /// <summary>What an ONNX model gives.</summary>
        public IReadOnlyList<Port> Outputs
        {
            get { return Ports(Native.CAPG_PORT_OUTPUT); }
        }

        /// <summary>Whether it is an ONNX model, which takes tensors, and not a language model.</summary>
        public bool IsOnnx
        {
            get
            {
                using (var model = new Use(Handle))
                {
                    UIntPtr count;
                    capg_error* error;
                    uint status = Native.capg_model_port_count((capg_model*)model.Pointer, Native.CAPG_PORT_OUTPUT, &count, &error);
                    if (status != Native.CAPG_ERROR_UNSUPPORTED) Failure.Check(status, error);
                    Native.capg_error_free(error);
                    return status == Native.CAPG_OK;
                }
            }
        }

        private IReadOnlyList<Port> Ports(uint direction)
        {
            using (var use = new Use(Handle))
            {
                if (ports[direction] != null) return ports[direction];
                var model = (capg_model*)use.Pointer;
                UIntPtr count;
                capg_error* error;
                Failure.Check(Native.capg_model_port_count(model, direction, &count, &error), error);
                var found = new Port[(int)count.ToUInt32()];
                for (int i = 0; i < found.Length; i++) found[i] = Port(model, direction, i);
                return ports[direction] = found;
            }
        }

        private static Port Port(capg_model* model, uint direction, int index)
        {
            var raw = new capg_port();
            raw.struct_size = (UIntPtr)(uint)sizeof(capg_port);
            capg_error* error;
            Failure.Check(Native.capg_model_port(model, direction, (UIntPtr)(uint)index, &raw, &error), error);
            long[] shape = null;
            string[] names = null;
            if (raw.has_shape != 0)
            {
                shape = new long[(int)raw.rank.ToUInt32()];
                names = new string[shape.Length];
                for (int i = 0; i < shape.Length; i++)
                {
                    shape[i] = raw.dims[i];
                    names[i] = Utf8.Read(raw.dim_names[i].data, raw.dim_names[i].len);
                }
            }
            string name = Utf8.Read(raw.name, raw.name_len);
            return new Port(name, (ValueKind)raw.kind, (ElementType)raw.element, shape, names, raw.optional != 0);
        }

        /// <summary>Computes outputs of an ONNX model from inputs by name. Arrays are read where they are, and must not change
        /// meanwhile; outputs are not copied either.</summary>
        /// <param name="inputs">Values by name, such as a Dictionary.</param>
        /// <param name="outputs">Names of those that are wanted; null: all, in the model's order.</param>
        /// <param name="cancellationToken">Stops it.</param>
        public Outputs Run(IEnumerable<KeyValuePair<string, Value>> inputs, IReadOnlyList<string> outputs = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            KeyValuePair<string, Value>[] given = Check.NotNull(inputs, nameof(inputs)).ToArray();
            string[] names = outputs == null ? new string[0] : outputs.ToArray();
            using (var model = new Use(Handle))
            using (var cancel = new CancelScope(cancellationToken))
            using (var pins = new InputPins())
            {
                var values = new capg_value[given.Length];
                for (int i = 0; i < values.Length; i++) values[i] = Raw(given[i].Key, given[i].Value, pins);
                var first = (capg_value*)pins.Pin(values);
                capg_string* wanted = null;
                if (names.Length > 0) wanted = (capg_string*)pins.Pin(pins.Texts(names, nameof(outputs)));
                var handle = new Handle(Kind.Values);
                capg_values* raw;
                capg_error* error;
                uint status = Native.capg_model_run((capg_model*)model.Pointer, first, (UIntPtr)(uint)values.Length, wanted,
                    (UIntPtr)(uint)names.Length, null, cancel.Pointer, &raw, &error);
                cancel.Check(status, error);
                return new Outputs(handle.Take(raw));
            }
        }

        private static capg_value Raw(string name, Value value, InputPins pins)
        {
            var raw = new capg_value();
            raw.name = pins.Text(name, "inputs", out raw.name_len);
            if (value == null) value = Value.None;
            var tensors = new capg_tensor[value.Tensors.Count];
            for (int i = 0; i < tensors.Length; i++) tensors[i] = value.Tensors[i].Raw(pins);
            raw.tensors = (capg_tensor*)pins.Pin(tensors);
            raw.count = (UIntPtr)(uint)tensors.Length;
            raw.kind = (uint)value.Kind;
            raw.element = value.Kind == ValueKind.Tensor ? 0 : (uint)value.Element;
            return raw;
        }
    }
}
