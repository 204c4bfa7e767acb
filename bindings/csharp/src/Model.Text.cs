using System;
using System.Collections.Generic;
using System.Linq;
#if CAPSULEGRAPH_SPANS
using System.Runtime.InteropServices;
#endif

namespace CapsuleGraph
{
    /// <summary>A message of a conversation.</summary>
    public sealed class ChatMessage
    {
        /// <summary>Makes one of who speaks ("system", "user", "assistant", or what the template knows besides) and what is said.</summary>
        public ChatMessage(string role, string content)
        {
            Role = Check.NotNull(role, nameof(role));
            Content = Check.NotNull(content, nameof(content));
        }

        /// <summary>Who speaks.</summary>
        public string Role { get; }

        /// <summary>What is said.</summary>
        public string Content { get; }

        /// <summary>Who and what.</summary>
        public override string ToString()
        {
            return Role + ": " + Content;
        }
    }

    public sealed unsafe partial class Model
    {
        /// <summary>Token ids of a text.</summary>
        /// <param name="text">The text.</param>
        /// <param name="special">With the tokens that the model asks for around it.</param>
        /// <param name="parseSpecial">The text of a control token becomes that token; not for text from outside.</param>
        public int[] Tokenize(string text, bool special = false, bool parseSpecial = false)
        {
            return TokenizeNamed(text, special, parseSpecial, nameof(text));
        }

        /// <summary>what: the name that the caller's caller gave the text.</summary>
        internal int[] TokenizeNamed(string text, bool special, bool parseSpecial, string what)
        {
            byte[] bytes = Utf8.Bytes(text, what);
            uint flags = (special ? Native.CAPG_TOKENIZE_ADD_SPECIAL : 0) | (parseSpecial ? Native.CAPG_TOKENIZE_PARSE_SPECIAL : 0);
            using (var model = new Use(Handle))
            fixed (byte* data = bytes)
            {
                capg_tokens* tokens;
                capg_error* error;
                uint status = Native.capg_model_tokenize((capg_model*)model.Pointer, data, Utf8.Length(bytes), flags, &tokens, &error);
                Failure.Check(status, error);
                return Returned.Tokens(tokens);
            }
        }

        /// <summary>The text of tokens; bytes that form no character become U+FFFD. special: control tokens are printed too.</summary>
        public string Detokenize(int[] ids, bool special = false)
        {
            using (var pins = new Pins()) return Detokenize((uint*)pins.Pin(Check.NotNull(ids, nameof(ids))), ids.Length, special);
        }

#if CAPSULEGRAPH_SPANS
        /// <summary>As Detokenize of an array.</summary>
        public string Detokenize(ReadOnlySpan<int> ids, bool special = false)
        {
            int nothing;
            fixed (int* data = &MemoryMarshal.GetReference(ids))
                return Detokenize((uint*)(data == null ? &nothing : data), ids.Length, special);
        }
#endif

        private string Detokenize(uint* ids, int count, bool special)
        {
            using (var model = new Use(Handle))
            {
                uint flags = special ? Native.CAPG_DETOKENIZE_SPECIAL : 0;
                capg_text* text;
                capg_error* error;
                uint status = Native.capg_model_detokenize((capg_model*)model.Pointer, ids, (UIntPtr)(uint)count, flags, &text, &error);
                Failure.Check(status, error);
                return Returned.Text(text);
            }
        }

        /// <summary>Whether the model ends its answer with this token.</summary>
        public bool IsEndToken(int token)
        {
            using (var model = new Use(Handle))
            {
                uint isEnd;
                capg_error* error;
                uint status = Native.capg_model_is_end_token((capg_model*)model.Pointer, (uint)token, &isEnd, &error);
                Failure.Check(status, error);
                return isEnd != 0;
            }
        }

        /// <summary>A conversation as the model's own template writes it; with reply the beginning of the next answer.</summary>
        public string ChatPrompt(IReadOnlyList<ChatMessage> messages, bool reply = true)
        {
            ChatMessage[] said = Check.NotNull(messages, nameof(messages)).ToArray();
            using (var model = new Use(Handle))
            using (var pins = new Pins())
            {
                capg_chat_message* raw = Messages(said, pins);
                uint flags = reply ? 0 : Native.CAPG_CHAT_NO_REPLY;
                capg_text* text;
                capg_error* error;
                uint status = Native.capg_model_chat_prompt(
                    (capg_model*)model.Pointer, raw, (UIntPtr)(uint)said.Length, flags, &text, &error);
                Failure.Check(status, error);
                return Returned.Text(text);
            }
        }

        /// <summary>A conversation as tokens, ready to be answered.</summary>
        public int[] ChatTokens(IReadOnlyList<ChatMessage> messages)
        {
            ChatMessage[] said = Check.NotNull(messages, nameof(messages)).ToArray();
            using (var model = new Use(Handle))
            using (var pins = new Pins())
            {
                capg_chat_message* raw = Messages(said, pins);
                capg_tokens* tokens;
                capg_error* error;
                uint status = Native.capg_model_chat_tokens(
                    (capg_model*)model.Pointer, raw, (UIntPtr)(uint)said.Length, &tokens, &error);
                Failure.Check(status, error);
                return Returned.Tokens(tokens);
            }
        }

        private static capg_chat_message* Messages(ChatMessage[] messages, Pins pins)
        {
            var raw = new capg_chat_message[messages.Length];
            for (int i = 0; i < raw.Length; i++)
            {
                ChatMessage message = Check.NotNull(messages[i], nameof(messages));
                raw[i].role = pins.Text(message.Role, "role", out raw[i].role_len);
                raw[i].content = pins.Text(message.Content, "content", out raw[i].content_len);
            }
            return (capg_chat_message*)pins.Pin(raw);
        }
    }
}
