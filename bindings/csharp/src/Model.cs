using System;
using System.Collections.Generic;
using System.IO;

namespace CapsuleGraph
{
    /// <summary>A language model or an ONNX model, opened from a .cgraph file. Any number of threads may share it. Its sessions,
    /// capsules and outputs stay usable after it was disposed.</summary>
    public sealed unsafe partial class Model : Resource
    {
        private readonly IReadOnlyList<Port>[] ports = new IReadOnlyList<Port>[2];

        private Model(Handle handle) : base(handle)
        {
        }

        /// <summary>Opens a full file, or a mini together with its full file. The files must not be overwritten meanwhile.</summary>
        public static Model Open(string path, ModelOptions options = null)
        {
            Library.Load();
            return OpenCore(Check.NotNull(path, nameof(path)), null, options ?? new ModelOptions());
        }

        /// <summary>Opens a file that a stream reads: all of it, into memory, inside this call.</summary>
        public static Model Open(Stream stream, ModelOptions options = null)
        {
            Library.Load();
            return OpenCore(null, Check.NotNull(stream, nameof(stream)), options ?? new ModelOptions());
        }

        private static Model OpenCore(string path, Stream stream, ModelOptions options)
        {
            using (var pins = new Pins())
            using (var log = new Use(options.Log == null ? null : options.Log.Handle))
            using (var budget = new Use(options.Budget == null ? null : options.Budget.Handle))
            using (var file = stream == null ? null : new StreamSource(stream, nameof(stream)))
            using (var full = options.FullStream == null ? null : new StreamSource(options.FullStream, nameof(options.FullStream)))
            {
                var handle = new Handle(Kind.Model);
                capg_reader fileReader = file == null ? new capg_reader() : file.Reader(pins);
                capg_reader fullReader = full == null ? new capg_reader() : full.Reader(pins);
                capg_model_options raw =
                    options.Raw(pins, full == null ? null : &fullReader, (capg_log*)log.Pointer, (capg_budget*)budget.Pointer);
                capg_model* model;
                capg_error* error;
                uint status;
                UIntPtr length;
                byte* data = file == null ? pins.Text(path, nameof(path), out length) : pins.Optional(null, null, out length);
                try
                {
                }
                finally
                {
                    // Aborts wait for its end: see Callback.
                    status = file == null
                        ? Native.capg_model_open(data, length, &raw, &model, &error)
                        : Native.capg_model_open_reader(&fileReader, &raw, &model, &error);
                }
                handle.Take(model);
                Rethrow(file, error);
                Rethrow(full, error);
                Failure.Check(status, error);
                return new Model(handle);
            }
        }

        private static void Rethrow(Callback callback, capg_error* error)
        {
            if (callback == null || !callback.Failed) return;
            Native.capg_error_free(error);
            callback.Rethrow();
        }

        private delegate uint TextGetter(capg_model* model, byte** data, UIntPtr* length, capg_error** error);

        private delegate uint NumberGetter(capg_model* model, uint* number, capg_error** error);

        private string Text(TextGetter getter)
        {
            using (var model = new Use(Handle))
            {
                byte* data;
                UIntPtr length;
                capg_error* error;
                Failure.Check(getter((capg_model*)model.Pointer, &data, &length, &error), error);
                return Utf8.Read(data, length);
            }
        }

        private int Number(NumberGetter getter)
        {
            using (var model = new Use(Handle))
            {
                uint number;
                capg_error* error;
                Failure.Check(getter((capg_model*)model.Pointer, &number, &error), error);
                return (int)number;
            }
        }

        /// <summary>The model's own name.</summary>
        public string Name
        {
            get { return Text((model, data, length, error) => Native.capg_model_name(model, data, length, error)); }
        }

        /// <summary>The mode in force.</summary>
        public Mode Mode
        {
            get { return (Mode)Number((model, number, error) => Native.capg_model_mode(model, number, error)); }
        }

        /// <summary>Why that mode was taken.</summary>
        public string ModeReason
        {
            get { return Text((model, data, length, error) => Native.capg_model_mode_reason(model, data, length, error)); }
        }

        /// <summary>Tokens of the vocabulary: ids are below it, and it is the width of a row of logits.</summary>
        public int VocabularySize
        {
            get { return Number((model, number, error) => Native.capg_model_vocab_size(model, number, error)); }
        }

        /// <summary>Activations of a token between two capsules.</summary>
        public int EmbeddingLength
        {
            get { return Number((model, number, error) => Native.capg_model_embedding_length(model, number, error)); }
        }

        /// <summary>Positions that the model was trained for.</summary>
        public int ContextLength
        {
            get { return Number((model, number, error) => Native.capg_model_context_length(model, number, error)); }
        }

        /// <summary>Threads that compute, the caller's included.</summary>
        public int Threads
        {
            get { return Number((model, number, error) => Native.capg_model_threads(model, number, error)); }
        }

        /// <summary>Whether <see cref="Session.Chat(string, GenerateOptions, System.Threading.CancellationToken)"/> can be used.</summary>
        public bool HasChatTemplate
        {
            get { return Number((model, number, error) => Native.capg_model_has_chat_template(model, number, error)) != 0; }
        }

        /// <summary>Anonymous memory that the model holds, in bytes; mapped files are the system's.</summary>
        public long HeldBytes
        {
            get
            {
                using (var model = new Use(Handle))
                {
                    ulong bytes;
                    capg_error* error;
                    Failure.Check(Native.capg_model_held_bytes((capg_model*)model.Pointer, &bytes, &error), error);
                    return (long)bytes;
                }
            }
        }

        /// <summary>The facts of its file in JSON; with details every capsule.</summary>
        public string Inspect(bool details = false)
        {
            using (var model = new Use(Handle))
            {
                capg_text* report;
                capg_error* error;
                uint status = Native.capg_model_inspect((capg_model*)model.Pointer, details ? 1u : 0u, &report, &error);
                Failure.Check(status, error);
                return Returned.Text(report);
            }
        }

        /// <summary>The report of an ONNX model up to now in JSON: times, memory, ONNX Runtime's version. Of a language model its
        /// sessions have reports.</summary>
        public string Report()
        {
            using (var model = new Use(Handle))
            {
                capg_text* report;
                capg_error* error;
                Failure.Check(Native.capg_model_report((capg_model*)model.Pointer, &report, &error), error);
                return Returned.Text(report);
            }
        }

        internal override string Describe()
        {
            try
            {
                return "Model \"" + Name + "\" (" + Mode + ")";
            }
            catch (ObjectDisposedException)
            {
                // By another thread, meanwhile.
                return ToString();
            }
        }

        /// <summary>A sequence of tokens on this model, to generate with.</summary>
        public Session CreateSession(SessionOptions options = null)
        {
            return new Session(this, options);
        }
    }
}
