using System;
using System.Runtime.CompilerServices;
using System.Threading;

namespace CapsuleGraph
{
    /// <summary>Work on files: convert, split, verify, inspect, export. Reports are JSON objects.</summary>
    public static unsafe class Files
    {
        /// <summary>Converts a GGUF or ONNX model to a .cgraph file, and derives its mini; tells in JSON what was written.</summary>
        /// <param name="source">The model; any shard of a sharded one.</param>
        /// <param name="target">The file to write; null: the source's name with .cgraph.</param>
        /// <param name="options">How; null: the defaults.</param>
        /// <param name="cancellationToken">Stops it.</param>
        public static string Convert(string source, string target = null, ConvertOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            Library.Load();
            return ConvertCore(Check.NotNull(source, nameof(source)), target, options ?? new ConvertOptions(), cancellationToken);
        }

        /// <summary>Derives a mini from a full file; gives the plan in JSON.</summary>
        /// <param name="full">The full file.</param>
        /// <param name="mini">The file to write; null: the full file's name with .mini.cgraph.</param>
        /// <param name="options">How; null: the defaults.</param>
        /// <param name="cancellationToken">Stops it.</param>
        public static string Split(string full, string mini = null, SplitOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            Library.Load();
            return SplitCore(Check.NotNull(full, nameof(full)), mini, options ?? new SplitOptions(), cancellationToken);
        }

        /// <summary>Verifies a .cgraph file: its structure, and with Deep every checksum. Problems are no exception.</summary>
        public static VerifyResult Verify(string path, VerifyOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            Library.Load();
            return VerifyCore(Check.NotNull(path, nameof(path)), options ?? new VerifyOptions(), cancellationToken);
        }

        /// <summary>The facts of a .cgraph, GGUF or ONNX file in JSON; with details every capsule.</summary>
        public static string Inspect(string path, bool details = false)
        {
            Library.Load();
            return InspectCore(path, details);
        }

        /// <summary>Writes the ONNX model again that a full file was converted from; says in JSON which files.</summary>
        public static string ExportOnnx(string source, string target, CancellationToken cancellationToken = default(CancellationToken))
        {
            Library.Load();
            return ExportCore(source, target, cancellationToken);
        }

        private static string ConvertCore(string source, string target, ConvertOptions options, CancellationToken token)
        {
            using (var job = new Job(options, token))
            {
                var raw = new capg_convert_options();
                raw.struct_size = (UIntPtr)(uint)sizeof(capg_convert_options);
                Pins pins = job.Pins;
                raw.mini_path = pins.Optional(options.MiniPath, nameof(options.MiniPath), out raw.mini_path_len);
                raw.light = pins.Optional(options.Light, nameof(options.Light), out raw.light_len);
                raw.calibrate = pins.Optional(options.Calibrate, nameof(options.Calibrate), out raw.calibrate_len);
                raw.cancel = job.Cancel.Pointer;
                raw.log = job.Log;
                raw.progress = job.Progress;
                raw.progress_user_data = job.ProgressData;
                raw.mini_bytes = Check.Bytes(options.MiniBytes, nameof(options.MiniBytes));
                raw.no_mini = options.NoMini ? 1u : 0u;
                raw.planes = (uint)options.Planes;
                raw.capsule_bytes = Check.Bytes(options.CapsuleBytes, nameof(options.CapsuleBytes));
                raw.capsule_count = Check.Count(options.CapsuleCount, nameof(options.CapsuleCount));
                raw.max_error = options.MaxError;
                string runtime = OnnxRuntime.For(options.OnnxRuntime);
                raw.onnxruntime_path = pins.Optional(runtime, nameof(options.OnnxRuntime), out raw.onnxruntime_path_len);
                UIntPtr sourceLength, targetLength;
                byte* from = pins.Text(source, nameof(source), out sourceLength);
                byte* to = pins.Optional(target, nameof(target), out targetLength);
                capg_text* summary;
                capg_error* error;
                uint status;
                try
                {
                }
                finally
                {
                    // Aborts wait for its end: see Callback.
                    status = Native.capg_convert(from, sourceLength, to, targetLength, &raw, &summary, &error);
                }
                job.Check(status, summary, error);
                return Returned.Text(summary);
            }
        }

        private static string SplitCore(string full, string mini, SplitOptions options, CancellationToken token)
        {
            using (var job = new Job(options, token))
            {
                var raw = new capg_split_options();
                raw.struct_size = (UIntPtr)(uint)sizeof(capg_split_options);
                Pins pins = job.Pins;
                raw.light = pins.Optional(options.Light, nameof(options.Light), out raw.light_len);
                raw.calibrate = pins.Optional(options.Calibrate, nameof(options.Calibrate), out raw.calibrate_len);
                raw.cancel = job.Cancel.Pointer;
                raw.log = job.Log;
                raw.progress = job.Progress;
                raw.progress_user_data = job.ProgressData;
                raw.mini_bytes = Check.Bytes(options.MiniBytes, nameof(options.MiniBytes));
                string runtime = OnnxRuntime.For(options.OnnxRuntime);
                raw.onnxruntime_path = pins.Optional(runtime, nameof(options.OnnxRuntime), out raw.onnxruntime_path_len);
                raw.max_error = options.MaxError;
                UIntPtr fullLength, miniLength;
                byte* from = pins.Text(full, nameof(full), out fullLength);
                byte* to = pins.Optional(mini, nameof(mini), out miniLength);
                capg_text* summary;
                capg_error* error;
                uint status;
                try
                {
                }
                finally
                {
                    // Aborts wait for its end: see Callback.
                    status = Native.capg_split(from, fullLength, to, miniLength, &raw, &summary, &error);
                }
                job.Check(status, summary, error);
                return Returned.Text(summary);
            }
        }

        private static VerifyResult VerifyCore(string path, VerifyOptions options, CancellationToken token)
        {
            using (var job = new Job(options, token))
            {
                var raw = new capg_verify_options();
                raw.struct_size = (UIntPtr)(uint)sizeof(capg_verify_options);
                Pins pins = job.Pins;
                raw.full_path = pins.Optional(options.FullPath, nameof(options.FullPath), out raw.full_path_len);
                raw.cancel = job.Cancel.Pointer;
                raw.log = job.Log;
                raw.progress = job.Progress;
                raw.progress_user_data = job.ProgressData;
                raw.deep = options.Deep ? 1u : 0u;
                raw.repair = options.Repair ? 1u : 0u;
                UIntPtr length, problems;
                byte* file = pins.Text(path, nameof(path), out length);
                capg_text* report;
                capg_error* error;
                uint status;
                try
                {
                }
                finally
                {
                    // Aborts wait for its end: see Callback.
                    status = Native.capg_verify(file, length, &raw, &problems, &report, &error);
                }
                job.Check(status, report, error);
                return new VerifyResult(checked((int)problems.ToUInt64()), Returned.Text(report));
            }
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static string InspectCore(string path, bool details)
        {
            byte[] file = Utf8.Bytes(path, nameof(path));
            fixed (byte* data = file)
            {
                capg_text* report;
                capg_error* error;
                Failure.Check(Native.capg_inspect(data, Utf8.Length(file), details ? 1u : 0u, &report, &error), error);
                return Returned.Text(report);
            }
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static string ExportCore(string source, string target, CancellationToken token)
        {
            byte[] full = Utf8.Bytes(source, nameof(source)), model = Utf8.Bytes(target, nameof(target));
            using (var cancel = new CancelScope(token))
            fixed (byte* from = full, to = model)
            {
                capg_text* summary;
                capg_error* error;
                cancel.Check(Native.capg_export(from, Utf8.Length(full), to, Utf8.Length(model), cancel.Pointer, &summary, &error), error);
                return Returned.Text(summary);
            }
        }

        /// <summary>A job for the time of its call: what it is given, and what holds that.</summary>
        private sealed class Job : IDisposable
        {
            internal readonly Pins Pins = new Pins();
            internal readonly CancelScope Cancel;
            private readonly ProgressReceiver receiver;
            private readonly Use log;

            internal Job(JobOptions options, CancellationToken token)
            {
                Cancel = new CancelScope(token, true);
                try
                {
                    log = new Use(options.Log == null ? null : options.Log.Handle);
                }
                catch (ObjectDisposedException)
                {
                    Cancel.Dispose();
                    throw;
                }
                if (options.Progress != null) receiver = new ProgressReceiver(options.Progress, Cancel);
            }

            internal capg_log* Log
            {
                get { return (capg_log*)log.Pointer; }
            }

            internal void* Progress
            {
                get { return receiver == null ? null : ProgressReceiver.EntryPoint; }
            }

            internal void* ProgressData
            {
                get { return receiver == null ? null : receiver.Data; }
            }

            /// <summary>Throws where the call failed, or the callback in it; what the call gave is freed then.</summary>
            internal void Check(uint status, capg_text* given, capg_error* error)
            {
                if (receiver != null && receiver.Failed)
                {
                    Native.capg_text_free(given);
                    Native.capg_error_free(error);
                    receiver.Rethrow();
                }
                Cancel.Check(status, error);
            }

            public void Dispose()
            {
                Cancel.Dispose();
                if (receiver != null) receiver.Dispose();
                Pins.Dispose();
                log.Dispose();
            }
        }
    }
}
