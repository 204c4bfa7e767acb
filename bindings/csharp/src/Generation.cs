using System;
using System.Collections;
using System.Collections.Generic;
using System.Text;
using System.Threading;
#if CAPSULEGRAPH_SPANS
using System.Linq;
using System.Threading.Tasks;
#endif

namespace CapsuleGraph
{
    /// <summary>A text as it is generated: going through it gives pieces of text, none of which is empty. What has not been asked for
    /// is not computed, and leaving off in the middle needs no farewell. It can be gone through once.</summary>
    public sealed partial class Generation : IEnumerable<string>
    {
        private readonly CancellationToken token;
        private readonly List<ChatMessage> messages;
        private readonly StringBuilder text = new StringBuilder();
        private readonly List<int> tokens = new List<int>();

        internal Generation(Session session, CancellationToken token, List<ChatMessage> messages)
        {
            Session = session;
            this.token = token;
            this.messages = messages;
        }

        internal Session Session { get; }

        /// <summary>The text so far.</summary>
        public string Text
        {
            get { return text.ToString(); }
        }

        /// <summary>The tokens so far.</summary>
        public IReadOnlyList<int> Tokens
        {
            get { return tokens; }
        }

        /// <summary>Why it ended; None before.</summary>
        public Finish FinishReason { get; private set; }

        /// <summary>The next piece of text; null at the end.</summary>
        public string Next()
        {
            return Next(token);
        }

        private string Next(CancellationToken cancellation)
        {
            while (FinishReason == Finish.None)
            {
                string piece = Step(cancellation);
                if (piece.Length > 0) return piece;
            }
            return null;
        }

        /// <summary>Goes on to the end; the whole text.</summary>
        public string ReadToEnd()
        {
            while (Next() != null)
            {
            }
            return Text;
        }

        /// <summary>Ends it here; the session keeps what it has. What was said so far becomes part of the conversation, unless the
        /// session has gone on with something else.</summary>
        public void Stop()
        {
            if (FinishReason == Finish.None) End(Finish.Callback);
        }

        /// <summary>The pieces that are still to come.</summary>
        public IEnumerator<string> GetEnumerator()
        {
            for (string piece = Next(); piece != null; piece = Next()) yield return piece;
        }

        IEnumerator IEnumerable.GetEnumerator()
        {
            return GetEnumerator();
        }

        /// <summary>How far it is.</summary>
        public override string ToString()
        {
            return "Generation: " + tokens.Count + " tokens, " + (FinishReason == Finish.None ? "not over" : FinishReason.ToString());
        }

        private void End(Finish reason)
        {
            FinishReason = reason;
            // The conversation is that of the generation that the session is at, not of one before.
            if (messages == null || Session.Current != this) return;
            messages.Add(new ChatMessage("assistant", Text));
            Session.Messages.Clear();
            Session.Messages.AddRange(messages);
        }
    }

    public sealed unsafe partial class Generation
    {
        /// <summary>Goes on by one token at most.</summary>
        private string Step(CancellationToken cancellation)
        {
            using (var turn = new Session.Turn(Session))
            using (var cancel = new CancelScope(cancellation))
            {
                CheckCurrent();
                capg_slice slice = Slice();
                capg_error* error;
                uint status = Native.capg_session_advance(turn.Pointer, 0, (UIntPtr)1, cancel.Pointer, &slice, &error);
                cancel.Check(status, error);
                return Take(slice);
            }
        }

        /// <summary>What a group went on with.</summary>
        internal string TakeSlice(capg_session* session)
        {
            capg_slice slice = Slice();
            capg_error* error;
            Failure.Check(Native.capg_session_slice(session, &slice, &error), error);
            return Take(slice);
        }

        internal void CheckCurrent()
        {
            if (Session.Current == this) return;
            throw new InvalidOperationException("This generation is over: its session has gone on with something else; generate again.");
        }

        private static capg_slice Slice()
        {
            var slice = new capg_slice();
            slice.struct_size = (UIntPtr)(uint)sizeof(capg_slice);
            return slice;
        }

        private string Take(capg_slice slice)
        {
            for (uint i = 0; i < slice.token_count.ToUInt32(); i++) tokens.Add((int)slice.tokens[i]);
            string piece = Utf8.Read(slice.text, slice.text_len);
            text.Append(piece);
            if (slice.more == 0) End((Finish)slice.finish_reason);
            return piece;
        }
    }

#if CAPSULEGRAPH_SPANS
    public sealed partial class Generation
    {
        /// <summary>The pieces that are still to come, each computed on a thread of the pool. Cancelled, it is an
        /// <see cref="OperationCanceledException"/> with the token that was; left early, it stops the piece at hand.</summary>
        public IAsyncEnumerable<string> ReadAsync(CancellationToken cancellationToken = default(CancellationToken))
        {
            return new Pieces(this, cancellationToken);
        }

        private sealed class Pieces : IAsyncEnumerable<string>
        {
            private readonly Generation generation;
            private readonly CancellationToken token;

            internal Pieces(Generation generation, CancellationToken token)
            {
                this.generation = generation;
                this.token = token;
            }

            public IAsyncEnumerator<string> GetAsyncEnumerator(CancellationToken cancellationToken)
            {
                return new Enumerator(generation, new[] { cancellationToken, token, generation.token });
            }
        }

        private sealed class Enumerator : IAsyncEnumerator<string>
        {
            private readonly Generation generation;
            // Those that the program gave, any of which ends it.
            private readonly CancellationToken[] given;
            private readonly CancellationTokenSource cancel;
            private Task<bool> move = Task.FromResult(false);
            private bool ended;

            internal Enumerator(Generation generation, CancellationToken[] given)
            {
                this.generation = generation;
                this.given = given;
                cancel = CancellationTokenSource.CreateLinkedTokenSource(given);
            }

            public string Current { get; private set; }

            public ValueTask<bool> MoveNextAsync()
            {
                if (ended) throw new ObjectDisposedException(nameof(Generation), "These pieces are at their end; ask for others.");
                move = Move(cancel.Token);
                return new ValueTask<bool>(move);
            }

            private async Task<bool> Move(CancellationToken token)
            {
                // Not of the token: a task that has not begun would be cancelled with a message and a token of its own.
                return await Task.Run(() => Step(token), CancellationToken.None).ConfigureAwait(false);
            }

            private bool Step(CancellationToken token)
            {
                try
                {
                    return (Current = generation.Next(token)) != null;
                }
                catch (OperationCanceledException error) when (error.CancellationToken == token)
                {
                    throw new OperationCanceledException(error.Message, error, given.FirstOrDefault(one => one.IsCancellationRequested));
                }
            }

            /// <summary>Ends the move that may be on its way, and waits for that: the session is free afterwards.</summary>
            public async ValueTask DisposeAsync()
            {
                if (ended) return;
                ended = true;
                if (!move.IsCompleted) cancel.Cancel();
                await Task.WhenAny(move).ConfigureAwait(false);
                cancel.Dispose();
            }
        }
    }
#endif
}
