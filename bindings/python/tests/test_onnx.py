"""ONNX models: every kind of value goes in and comes out."""

import gc
import unittest

import numpy as np
from support import onnx

import capsulegraph as cg


class Running(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.small = cg.Model(onnx("small", 100))

    @classmethod
    def tearDownClass(cls):
        cls.small.close()

    def test_ports(self):
        inputs = {port.name: port for port in self.small.inputs}
        self.assertIsInstance(inputs["x"], cg.Port)
        self.assertEqual(inputs["x"], ("x", "tensor", "float32", ("n", 4), False))
        self.assertEqual(inputs["shift"], ("shift", "tensor", "float32", (4,), True))
        self.assertEqual(inputs["list"], ("list", "sequence", "float32", None, False))
        self.assertEqual(inputs["rounds"].shape, ())
        outputs = {port.name: port.kind for port in self.small.outputs}
        self.assertEqual((outputs["rows"], outputs["nothing"]), ("sequence", "optional"))
        self.assertEqual([port[1:4] for port in self.small.outputs if port.name == "maps"], [("sequence of maps", "float32", None)])
        self.assertTrue(self.small.is_onnx)

    def test_tensors_lists_maps_strings_and_nothing(self):
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        given = {"x": x, "words": ["ä", "", "b"], "list": [x[0], np.float32([7])], "rounds": 1}
        found = self.small.run(given)
        self.assertEqual(list(found), [port.name for port in self.small.outputs])
        self.assertEqual(found["product"].shape, (3, 128))
        self.assertEqual(found["doubled"].tolist(), ["ää", "", "bb"])
        self.assertEqual([row.tolist() for row in found["rows"]], [row.reshape(1, 4).tolist() for row in x])
        self.assertEqual([item.shape for item in found["longer"]], [(4,), (1,), (3, 4)])
        self.assertIsNone(found["nothing"])
        self.assertEqual(len(found["maps"]), 3)
        self.assertTrue(all(isinstance(item, dict) and len(item) == 4 for item in found["maps"]))
        again = self.small.run({"x": x, "shift": np.ones(4, np.float32)}, ["maps", "product"])
        self.assertEqual(list(again), ["maps", "product"])
        self.assertNotEqual(again["maps"], found["maps"])

    def test_outputs_outlive_the_model(self):
        model = cg.Model(onnx("loop"))
        x = np.sin(np.arange(128, dtype=np.float32)).reshape(2, 64)
        found = model.run({"input": x})
        output, copy = found["output"], found["output"].copy()
        del found
        for _ in range(20):
            model.run({"input": x * 2})
        model.close()
        gc.collect()
        np.testing.assert_array_equal(output, copy)
        self.assertFalse(output.flags.writeable)
        with self.assertRaises(ValueError):
            output[0] = 1

    def test_arrays_of_any_order_are_taken(self):
        x = np.sin(np.arange(128, dtype=np.float32)).reshape(2, 64)
        with cg.Model(onnx("loop")) as model:
            plain = model.run({"input": x})["final"]
            for other in (np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, axis=1)[:, ::2], x.tolist()):
                np.testing.assert_array_equal(model.run({"input": other})["final"], plain)
            self.assertEqual(model.report()["onnx"]["zero_copy"], True)

    def test_threads_share_a_model(self):
        from concurrent.futures import ThreadPoolExecutor

        x = np.sin(np.arange(128, dtype=np.float32)).reshape(2, 64)
        with cg.Model(onnx("loop")) as model:
            alone = model.run({"input": x})["final"]
            with ThreadPoolExecutor(4) as pool:
                for found in pool.map(lambda _: model.run({"input": x})["final"], range(40)):
                    np.testing.assert_array_equal(found, alone)

    def test_elements_of_less_than_a_byte(self):
        from capsulegraph import tensors

        for bits, kind, values in ((4, "|i1", range(-8, 8)), (2, "|u1", [3, 0, 1, 2, 3])):
            array = np.array(list(values), kind)
            element = tensors._Element("", kind, bits)
            packed = tensors._packed("x", array, element)
            self.assertEqual(len(packed), (len(array) * bits + 7) // 8)
            np.testing.assert_array_equal(tensors._unpacked(packed, array.shape, element), array)
        self.assertEqual(tensors._packed("x", np.array([1, 2], np.uint8), tensors._Element("", "|u1", 4)).tolist(), [0x21])
        with self.assertRaisesRegex(cg.InvalidArgumentError, "from 0 to 15"):
            tensors._packed("x", np.array([1, 16], np.uint8), tensors._Element("", "|u1", 4))

    def test_lists_and_numbers_take_a_type_that_can_hold_them(self):
        from capsulegraph import tensors

        def taken(kind, value):
            return tensors._of_type("x", value, tensors.BY_NAME[kind])

        for kind, value in (("float32", [1, 2.5]), ("float32", np.float64(2)), ("uint64", 2**64 - 1), ("bool", [True, False]),
                            ("int4", [7, -8]), ("int64", []), ("float16", float("inf")), ("complex64", [1j, 2])):
            array = taken(kind, value)
            np.testing.assert_array_equal(array, value)
            self.assertEqual(array.dtype, np.dtype(tensors.ELEMENTS[tensors.BY_NAME[kind]].numpy))
        for kind, value in (("int64", [1.5]), ("int64", ["3"]), ("uint8", [np.int64(300)]), ("uint8", [-1]), ("bool", ["False"]),
                            ("bool", [1]), ("float16", [1e6]), ("float32", [True]), ("bfloat16", [1.0]), ("int64", 2**70),
                            ("float32", [[1], [2, 3]])):
            with self.subTest(kind=kind, value=value), self.assertRaises(cg.InvalidArgumentError):
                taken(kind, value)

    def test_keys_of_maps(self):
        from capsulegraph import tensors

        for keys in ([1, -2], [np.int32(3)], ["a", "b"], []):
            tensors.Values()._map("x", dict.fromkeys(keys, 1.0), tensors.BY_NAME["float32"])
        for keys in ([1.5], ["a", 2], [2**70], [None]):
            with self.subTest(keys=keys), self.assertRaisesRegex(cg.InvalidArgumentError, "keys of a map"):
                tensors.Values()._map("x", dict.fromkeys(keys, 1.0), tensors.BY_NAME["float32"])

    def test_models_are_written_back(self):
        x = np.sin(np.arange(128, dtype=np.float32)).reshape(2, 64)
        full = onnx("loop", 100)
        back, part, again = (full.with_name(f"written.{end}") for end in ("onnx", "part.onnx", "cgraph"))
        self.assertEqual(cg.export_onnx(full, back)["path"], str(back))
        self.assertEqual(cg.inspect(back)["kind"], "onnx")
        cg.convert(back, again, mini=False)
        with cg.Model(full) as model, cg.Model(again) as second:
            self.assertEqual(model.export_capsule(model.capsule_ids[0], part)["path"], str(part))
            self.assertEqual(cg.inspect(part)["kind"], "onnx")
            with self.assertRaises(cg.NotFoundError):
                model.export_capsule("absent", part)
            wanted, found = (opened.run({"input": x}) for opened in (model, second))
            np.testing.assert_allclose(found["final"], wanted["final"], rtol=1e-5, atol=1e-6)

    def test_what_is_refused(self):
        x = np.zeros((1, 4), np.float32)
        for given, error, text in (
            ({}, cg.InvalidArgumentError, "must be given"),
            ({"x": x.astype(np.int32)}, cg.InvalidArgumentError, "int32"),
            ({"x": x[:, :3]}, cg.InvalidArgumentError, "[1, 3]"),
            ({"y": x}, cg.InvalidArgumentError, 'no input "y"'),
            ({"x": object()}, cg.InvalidArgumentError, "'x'"),
            ({"x": np.ma.masked_array(x, x == 0)}, cg.InvalidArgumentError, "masked"),
            ({"x": x, "words": ["\ud800"]}, cg.InvalidArgumentError, "surrogate"),
            ({"x": np.zeros(1, "datetime64[s]")}, cg.InvalidArgumentError, "datetime64"),
            ({"x": x, "list": 5}, cg.InvalidArgumentError, "a list of arrays"),
            ({1: x}, TypeError, "name of an input"),
        ):
            with self.assertRaises(error) as caught:
                self.small.run(given, ["product"])
            self.assertIn(text, str(caught.exception))
        with self.assertRaises(TypeError):
            self.small.run({"x": x}, "product")
        with self.assertRaises(cg.UnsupportedError):
            self.small.session()


if __name__ == "__main__":
    unittest.main()
