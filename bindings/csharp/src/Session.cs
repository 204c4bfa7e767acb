using System;
using System.Collections.Generic;
using System.Threading;
#if CAPSULEGRAPH_SPANS
using System.Runtime.InteropServices;
#endif

namespace CapsuleGraph
{
    /// <summary>A sequence of tokens with its KV cache on one model. One call at a time: a second one meanwhile is
    /// <see cref="Status.Busy"/>.</summary>
    public sealed unsafe partial class Session : Resource
    {
        private static long made;

        // Views are read after the call that gave them, so that the library's own lock would not be enough.
        internal readonly object Gate = new object();
        internal readonly long Number = Interlocked.Increment(ref made);
        internal Generation Current;
#if CAPSULEGRAPH_SPANS
        // The model may be disposed when it is asked for.
        private readonly int vocabulary;
#endif

        /// <summary>Makes one on a model, which it keeps alive.</summary>
        public Session(Model model, SessionOptions options = null)
            : base(New(Check.NotNull(model, nameof(model)), options ?? new SessionOptions()))
        {
            Model = model;
#if CAPSULEGRAPH_SPANS
            vocabulary = model.VocabularySize;
#endif
            Messages = new List<ChatMessage>();
        }

        private static Handle New(Model model, SessionOptions options)
        {
            using (var use = new Use(model.Handle))
            {
                var raw = new capg_session_options();
                raw.struct_size = (UIntPtr)(uint)sizeof(capg_session_options);
                raw.context = Check.Count(options.Context, nameof(options.Context));
                raw.batch = Check.Count(options.Batch, nameof(options.Batch));
                raw.kv_type = (uint)options.KVType;
                raw.flags = options.WithoutLookup ? Native.CAPG_SESSION_WITHOUT_LOOKUP : 0;
                var handle = new Handle(Kind.Session);
                capg_session* session;
                capg_error* error;
                Failure.Check(Native.capg_session_new((capg_model*)use.Pointer, &raw, &session, &error), error);
                return handle.Take(session);
            }
        }

        /// <summary>The model that it is on.</summary>
        public Model Model { get; }

        internal override string Describe()
        {
            return "Session on " + Model;
        }

        /// <summary>The conversation of <see cref="Chat(string, GenerateOptions, CancellationToken)"/>, which may be changed: a first
        /// message of role "system" says how to answer.</summary>
        public List<ChatMessage> Messages { get; }

        /// <summary>How many tokens it holds.</summary>
        public int Count
        {
            get
            {
                using (var turn = new Turn(this))
                {
                    uint* ids;
                    UIntPtr count;
                    capg_error* error;
                    Failure.Check(Native.capg_session_tokens(turn.Pointer, &ids, &count, &error), error);
                    return (int)count.ToUInt32();
                }
            }
        }

        /// <summary>The tokens that it holds.</summary>
        public int[] Tokens
        {
            get
            {
                using (var turn = new Turn(this))
                {
                    uint* ids;
                    UIntPtr count;
                    capg_error* error;
                    Failure.Check(Native.capg_session_tokens(turn.Pointer, &ids, &count, &error), error);
                    return Returned.Ids(ids, count);
                }
            }
        }

        /// <summary>Positions that there is room for.</summary>
        public int Context
        {
            get
            {
                using (var session = new Use(Handle))
                {
                    UIntPtr count;
                    capg_error* error;
                    Failure.Check(Native.capg_session_context((capg_session*)session.Pointer, &count, &error), error);
                    return (int)count.ToUInt32();
                }
            }
        }

        /// <summary>Forgets every token from that position on, and a generation in progress.</summary>
        public void Truncate(int count)
        {
            uint wanted = Check.Count(count, nameof(count));
            using (var turn = new Turn(this))
            {
                capg_error* error;
                Failure.Check(Native.capg_session_truncate(turn.Pointer, (UIntPtr)wanted, &error), error);
                Current = null;
            }
        }

        /// <summary>Forgets all tokens, the conversation, and a generation in progress.</summary>
        public void Reset()
        {
            using (var turn = new Turn(this))
            {
                capg_error* error;
                Failure.Check(Native.capg_session_reset(turn.Pointer, &error), error);
                Current = null;
                Messages.Clear();
            }
        }

        /// <summary>What the session did and cost, in JSON: mode and why, times, memory, text and tokens of the last generation.</summary>
        public string Report()
        {
            using (var turn = new Turn(this))
            {
                capg_text* report;
                capg_error* error;
                Failure.Check(Native.capg_session_report(turn.Pointer, &report, &error), error);
                return Returned.Text(report);
            }
        }

        /// <summary>Evaluates tokens after those that the session holds, and gives the logits of the last one.</summary>
        public float[] Eval(int[] ids, CancellationToken cancellationToken = default(CancellationToken))
        {
            Check.NotNull(ids, nameof(ids));
            using (var turn = new Turn(this))
            using (var pins = new Pins())
            {
                Eval(turn.Pointer, (uint*)pins.Pin(ids), ids.Length, 0, cancellationToken);
                return ReadLogits(turn.Pointer).Data;
            }
        }

        /// <summary>As Eval, with the logits of every token, a row each.</summary>
        public Rows EvalAll(int[] ids, CancellationToken cancellationToken = default(CancellationToken))
        {
            Check.NotNull(ids, nameof(ids));
            using (var turn = new Turn(this))
            using (var pins = new Pins())
            {
                Eval(turn.Pointer, (uint*)pins.Pin(ids), ids.Length, Native.CAPG_EVAL_ALL_LOGITS, cancellationToken);
                return ReadLogits(turn.Pointer);
            }
        }

#if CAPSULEGRAPH_SPANS
        /// <summary>As Eval, with the logits of the last token written to a span of
        /// <see cref="CapsuleGraph.Model.VocabularySize"/> floats.</summary>
        public void Eval(ReadOnlySpan<int> ids, Span<float> logits, CancellationToken cancellationToken = default(CancellationToken))
        {
            if (logits.Length < vocabulary)
                throw new ArgumentException("There is room for " + logits.Length + " logits, and there are " + vocabulary + ".", nameof(logits));
            using (var turn = new Turn(this))
            fixed (int* data = &MemoryMarshal.GetReference(ids))
            {
                int nothing;
                Eval(turn.Pointer, (uint*)(data == null ? &nothing : data), ids.Length, 0, cancellationToken);
                float* found;
                UIntPtr rows, columns;
                capg_error* error;
                Failure.Check(Native.capg_session_logits(turn.Pointer, &found, &rows, &columns, &error), error);
                new ReadOnlySpan<float>(found, checked((int)columns.ToUInt64())).CopyTo(logits);
            }
        }
#endif

        /// <summary>Logits of the last evaluation, a row a token. After a generated token those that it was chosen from.</summary>
        public Rows Logits
        {
            get
            {
                using (var turn = new Turn(this)) return ReadLogits(turn.Pointer);
            }
        }

        private void Eval(capg_session* session, uint* ids, int count, uint flags, CancellationToken token)
        {
            using (var cancel = new CancelScope(token))
            {
                Current = null;
                capg_error* error;
                uint status = Native.capg_session_eval(session, ids, (UIntPtr)(uint)count, flags, cancel.Pointer, &error);
                cancel.Check(status, error);
            }
        }

        private static Rows ReadLogits(capg_session* session)
        {
            float* data;
            UIntPtr rows, columns;
            capg_error* error;
            Failure.Check(Native.capg_session_logits(session, &data, &rows, &columns, &error), error);
            return new Rows(data, rows, columns);
        }

        /// <summary>The session for one call: nothing else uses it meanwhile.</summary>
        internal struct Turn : IDisposable
        {
            private readonly object gate;
            private readonly Use use;

            internal Turn(Session session)
            {
                use = new Use(session.Handle);
                gate = session.Gate;
                if (Monitor.TryEnter(gate)) return;
                use.Dispose();
                throw new CapsuleGraphException(Status.Busy,
                    "the session is in use by another call; wait for it, or make a session for each thread");
            }

            internal capg_session* Pointer
            {
                get { return (capg_session*)use.Pointer; }
            }

            public void Dispose()
            {
                Monitor.Exit(gate);
                use.Dispose();
            }
        }
    }
}
