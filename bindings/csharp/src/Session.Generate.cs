using System;
using System.Collections.Generic;
using System.Threading;

namespace CapsuleGraph
{
    public sealed unsafe partial class Session
    {
        /// <summary>Generates after a text: pieces of text as they become complete. In the prompt the text of a control token counts
        /// as that token; <see cref="CapsuleGraph.Model.Tokenize"/> reads text from outside.</summary>
        public Generation Generate(string prompt, GenerateOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            return Generate(Model.TokenizeNamed(prompt, true, true, nameof(prompt)), options, cancellationToken);
        }

        /// <summary>Generates after token ids. What the session holds of the same prefix is not computed again.</summary>
        public Generation Generate(int[] prompt, GenerateOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            return Begin(prompt, options, cancellationToken, null);
        }

        /// <summary>Generates after a text inside this call, and hands each token to the callback.</summary>
        public Finish Generate(string prompt, TokenCallback onToken, GenerateOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            return Generate(Model.TokenizeNamed(prompt, true, true, nameof(prompt)), onToken, options, cancellationToken);
        }

        /// <summary>Generates after token ids inside this call, and hands each token to the callback.</summary>
        public Finish Generate(int[] prompt, TokenCallback onToken, GenerateOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            Check.NotNull(prompt, nameof(prompt));
            Check.NotNull(onToken, nameof(onToken));
            using (var turn = new Turn(this))
            using (var cancel = new CancelScope(cancellationToken))
            using (var receiver = new TokenReceiver(onToken))
            using (var pins = new Pins())
            {
                capg_generate_options raw = (options ?? new GenerateOptions()).Raw(pins);
                var ids = (uint*)pins.Pin(prompt);
                Current = null;
                uint reason;
                capg_error* error;
                uint status;
                try
                {
                }
                finally
                {
                    // Aborts wait for its end: see Callback.
                    status = Native.capg_session_generate(turn.Pointer, ids, (UIntPtr)(uint)prompt.Length, &raw,
                        TokenReceiver.Entry, receiver.Data, cancel.Pointer, &reason, &error);
                }
                if (receiver.Failed) Native.capg_error_free(error);
                receiver.Rethrow();
                cancel.Check(status, error);
                return (Finish)reason;
            }
        }

        /// <summary>Answers a message of the user, with the conversation so far in mind (<see cref="Messages"/>). The answer becomes
        /// part of it when it is at its end.</summary>
        public Generation Chat(string message, GenerateOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            Check.NotNull(message, nameof(message));
            var messages = new List<ChatMessage>(Messages) { new ChatMessage("user", message) };
            return Chat(messages, options, cancellationToken);
        }

        /// <summary>Answers the last of these messages, which become the conversation.</summary>
        public Generation Chat(IReadOnlyList<ChatMessage> messages, GenerateOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            var said = new List<ChatMessage>(Check.NotNull(messages, nameof(messages)));
            return Begin(Model.ChatTokens(said), options, cancellationToken, said);
        }

        /// <summary>All text that is generated after a prompt, at once.</summary>
        public string Complete(string prompt, GenerateOptions options = null,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            return Generate(prompt, options, cancellationToken).ReadToEnd();
        }

        private Generation Begin(int[] prompt, GenerateOptions options, CancellationToken token, List<ChatMessage> messages)
        {
            Check.NotNull(prompt, nameof(prompt));
            token.ThrowIfCancellationRequested();
            using (var turn = new Turn(this))
            using (var pins = new Pins())
            {
                capg_generate_options raw = (options ?? new GenerateOptions()).Raw(pins);
                var ids = (uint*)pins.Pin(prompt);
                capg_error* error;
                uint status = Native.capg_session_start(turn.Pointer, ids, (UIntPtr)(uint)prompt.Length, &raw, &error);
                Failure.Check(status, error);
                return Current = new Generation(this, token, messages);
            }
        }
    }
}
