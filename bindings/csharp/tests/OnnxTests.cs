// ONNX models: every kind of value goes in and comes out.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading;

namespace CapsuleGraph.Tests
{
    internal static class OnnxTests
    {
        internal static Dictionary<string, Value> Given(string name, Value value)
        {
            return new Dictionary<string, Value> { { name, value } };
        }

        private static Tensor Waves(float by = 1)
        {
            return Tensor.Of(Enumerable.Range(0, 128).Select(i => (float)Math.Sin(i) * by).ToArray(), 2, 64);
        }

        private static Model Small()
        {
            return Model.Open(Models.Onnx("small", 100));
        }

        public static void Ports()
        {
            using (Model model = Small())
            {
                Dictionary<string, Port> inputs = model.Inputs.ToDictionary(port => port.Name);
                Expect.Equal(inputs["x"].ToString(), "x: Float32[n, 4]");
                Expect.Equal(inputs["shift"].ToString(), "shift: Float32[4]");
                Expect.True(inputs["shift"].IsOptional && !inputs["x"].IsOptional, "what may be left out");
                Expect.Equal(inputs["list"].Kind, ValueKind.Sequence);
                Expect.Equal(inputs["list"].Shape, null);
                Expect.Equal(inputs["rounds"].Shape.Count, 0);
                Dictionary<string, ValueKind> outputs = model.Outputs.ToDictionary(port => port.Name, port => port.Kind);
                Expect.Equal(outputs["rows"], ValueKind.Sequence);
                Expect.Equal(outputs["nothing"], ValueKind.None);
                Expect.True(model.IsOnnx, "it is an ONNX model");
            }
        }

        public static void TensorsSequencesMapsStringsAndNothing()
        {
            float[] x = Enumerable.Range(0, 12).Select(i => (float)i).ToArray();
            var inputs = new Dictionary<string, Value>
            {
                { "x", Tensor.Of(x, 3, 4) },
                { "words", Tensor.Of(new[] { "ä", "", "b" }) },
                { "list", Value.Sequence(new[] { Tensor.Of(x.Take(4).ToArray()), Tensor.Of(new[] { 7f }) }) },
                { "rounds", Tensor.Scalar(1L) },
            };
            using (Model model = Small())
            using (Outputs found = model.Run(inputs))
            {
                Expect.Sequence(found.Keys, model.Outputs.Select(port => port.Name));
                Expect.Equal(found.Tensor("product").ToString(), "Float32[3, 128]");
                Expect.Sequence(found.Tensor("doubled").ToStrings(), new[] { "ää", "", "bb" });
                Expect.Sequence(found["rows"].Tensors.SelectMany(row => row.ToArray<float>()), x);
                Expect.Sequence(found["longer"].Tensors.Select(item => item.ToString()), new[] { "Float32[4]", "Float32[1]", "Float32[3, 4]" });
                Expect.Equal(found["nothing"].Kind, ValueKind.None);
                IReadOnlyList<Value> maps = found["maps"].ToMaps();
                Expect.Equal(maps.Count, 3);
                Expect.True(maps.All(map => map.Tensors[0].Count == 4), "each has four keys");
                Dictionary<string, Value> shifted = Given("x", inputs["x"]);
                shifted["shift"] = Tensor.Of(new float[] { 1, 1, 1, 1 });
                using (Outputs again = model.Run(shifted, new[] { "maps", "product" }))
                {
                    Expect.Sequence(again.Keys, new[] { "maps", "product" });
                    Expect.True(!again["maps"].ToMaps()[0].Tensors[1].ToBytes().SequenceEqual(maps[0].Tensors[1].ToBytes()), "the shift counts");
                }
            }
        }

        public static void MapsAreDictionaries()
        {
            using (Model model = Small())
            using (Outputs found = model.Run(Given("x", Tensor.Of(new float[12], 3, 4)), new[] { "maps" }))
            {
                Value map = found["maps"].ToMaps()[0];
                if (map.Tensors[0].Element == ElementType.Int64) Expect.Equal(map.ToDictionary<long, float>().Count, 4);
                else Expect.Equal(map.ToDictionary<string, float>().Count, 4);
                Expect.Equal(Value.Maps(new[] { map, map }).ToMaps().Count, 2);
                Value made = Value.Map(Tensor.Of(new[] { "a", "b" }), Tensor.Of(new[] { 1f, 2f }));
                Expect.Equal(made.ToDictionary<string, float>()["b"], 2f);
            }
        }

        public static void OutputsOutliveTheModelAndGoIn()
        {
            Outputs found;
            using (Model model = Model.Open(Models.Onnx("loop")))
            {
                found = model.Run(Given("input", Waves()));
                for (int i = 0; i < 20; i++) model.Run(Given("input", Waves(i))).Dispose();
            }
            GC.Collect();
            GC.WaitForPendingFinalizers();
            using (found)
            using (Model model = Model.Open(Models.Onnx("loop")))
            using (Outputs again = model.Run(Given("input", Waves())))
            {
                Expect.Sequence(found.Tensor("output").ToArray<float>(), again.Tensor("output").ToArray<float>());
                Expect.Equal(found.Tensor("output").ToBytes().Length, (int)found.Tensor("output").ByteLength);
            }
        }

        public static void MemoryOfTheLibraryGoesInWithoutACopy()
        {
            Tensor rising = Tensor.Of(Enumerable.Range(0, 12).Select(i => (float)i).ToArray(), 3, 4);
            using (Model model = Small())
            using (Outputs first = model.Run(Given("x", rising), new[] { "rows" }))
            {
                // A row of the library's memory, [1, 4], as an input.
                Tensor row = first["rows"].Tensors[2];
                Tensor pointed = Tensor.Of(ElementType.Float32, row.Data, row.ByteLength, 1, 4);
                using (Outputs given = model.Run(Given("x", row), new[] { "product" }))
                using (Outputs native = model.Run(Given("x", pointed), new[] { "product" }))
                using (Outputs copied = model.Run(Given("x", Tensor.Of(new float[] { 8, 9, 10, 11 }, 1, 4)), new[] { "product" }))
                {
                    Expect.Sequence(given.Tensor("product").ToArray<float>(), copied.Tensor("product").ToArray<float>());
                    Expect.Sequence(native.Tensor("product").ToArray<float>(), copied.Tensor("product").ToArray<float>());
                }
                first.Dispose();
                Expect.Throws<ObjectDisposedException>(() => model.Run(Given("x", row), new[] { "product" }));
            }
        }

        public static void ThreadsShareAModel()
        {
            using (Model model = Model.Open(Models.Onnx("loop")))
            {
                float[] alone;
                using (Outputs found = model.Run(Given("input", Waves()))) alone = found.Tensor("final").ToArray<float>();
                Expect.Equal(model.ToString(), "Model \"loop\" (Exact)");
                var wrong = new List<Exception>();
                Thread[] threads = Enumerable.Range(0, 4).Select(_ => new Thread(() =>
                {
                    try
                    {
                        for (int i = 0; i < 10; i++)
                            using (Outputs found = model.Run(Given("input", Waves())))
                                Expect.Sequence(found.Tensor("final").ToArray<float>(), alone);
                    }
                    catch (Exception error)
                    {
                        lock (wrong) wrong.Add(error);
                    }
                })).ToArray();
                foreach (Thread thread in threads) thread.Start();
                foreach (Thread thread in threads) thread.Join();
                Expect.Equal(string.Join("\n", wrong), "");
                Expect.Contains(model.Report().Replace(" ", ""), "\"zero_copy\":true");
            }
        }

        public static void ARunIsCancelled()
        {
            using (Model model = Model.Open(Models.Onnx("loop")))
            {
                var cancel = new CancellationTokenSource();
                Tensor large = Tensor.Of(new float[500000 * 64], 500000, 64);
                cancel.CancelAfter(300);
                Expect.Throws<OperationCanceledException>(() => model.Run(Given("input", large), null, cancel.Token));
                using (Outputs found = model.Run(Given("input", Waves()))) Expect.True(found.Count > 0, "the model is usable");
            }
        }

        public static void ModelsAreWrittenBack()
        {
            string full = Models.Onnx("loop", 100), back = Models.New("back.onnx");
            string part = Models.New("part.onnx"), again = Models.New("again.cgraph");
            Expect.Contains(Files.ExportOnnx(full, back), back);
            Expect.Contains(Files.Inspect(back).Replace(" ", ""), "\"kind\":\"onnx\"");
            Files.Convert(back, again, new ConvertOptions { NoMini = true });
            using (Model model = Model.Open(full))
            using (Model second = Model.Open(again))
            using (Outputs wanted = model.Run(Given("input", Waves())))
            using (Outputs found = second.Run(Given("input", Waves())))
            {
                Expect.Contains(model.ExportCapsule(model.CapsuleIds[0], part), part);
                Expect.Contains(Files.Inspect(part).Replace(" ", ""), "\"kind\":\"onnx\"");
                Expect.Status(Status.NotFound, () => model.ExportCapsule("absent", part));
                float[] one = wanted.Tensor("final").ToArray<float>(), other = found.Tensor("final").ToArray<float>();
                Expect.True(one.Zip(other, (a, b) => Math.Abs(a - b)).Max() < 1e-5, "the outputs are alike");
            }
        }

        public static void WhatIsRefused()
        {
            var x = Tensor.Of(new float[4], 1, 4);
            string[] product = { "product" };
            using (Model model = Small())
            {
                Expect.Status(Status.InvalidArgument, () => model.Run(new Dictionary<string, Value>(), product), "must be given");
                Expect.Status(Status.InvalidArgument, () => model.Run(Given("x", Tensor.Of(new int[4], 1, 4)), product), "int32");
                Expect.Status(Status.InvalidArgument, () => model.Run(Given("x", Tensor.Of(new float[3], 1, 3)), product), "[1, 3]");
                Expect.Status(Status.InvalidArgument, () => model.Run(Given("y", x), product), "no input \"y\"");
                Expect.Status(Status.InvalidArgument, () => model.Run(Given("x", Value.Sequence(new[] { x })), product));
                Expect.Status(Status.InvalidArgument, () => model.Run(Given("x", x), new[] { "absent" }), "absent");
                Expect.Throws<ArgumentNullException>(() => model.Run(null));
                Expect.Throws<ArgumentNullException>(() => model.Run(Given("x", x), new string[] { null }));
                Expect.Throws<InvalidOperationException>(() => Value.Sequence(new[] { x }).Tensor.ToString(), "Sequence");
                Expect.Status(Status.Unsupported, () => model.CreateSession());
                using (Outputs found = model.Run(Given("x", x), product))
                {
                    Expect.Throws<KeyNotFoundException>(() => found["absent"].ToString(), "product");
                    Expect.Equal(found.ToString(), "Outputs: product: Float32[1, 128]");
                }
            }
        }
    }
}
