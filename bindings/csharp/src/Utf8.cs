using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Text;

namespace CapsuleGraph
{
    /// <summary>Text to and from the library. Marshalling by the runtime would take the system's encoding on some.</summary>
    internal static unsafe class Utf8
    {
        private static readonly UTF8Encoding Strict = new UTF8Encoding(false, true);

        /// <summary>The bytes of an argument and a NUL behind them, so that the address of an empty text is not null.</summary>
        internal static byte[] Bytes(string text, string what)
        {
            if (text == null) throw new ArgumentNullException(what);
            try
            {
                var bytes = new byte[Strict.GetByteCount(text) + 1];
                Strict.GetBytes(text, 0, text.Length, bytes, 0);
                return bytes;
            }
            catch (EncoderFallbackException)
            {
                throw new ArgumentException("the text has half of a surrogate pair, which is no character", what);
            }
        }

        /// <summary>The length that the library is told.</summary>
        internal static UIntPtr Length(byte[] bytes)
        {
            return (UIntPtr)(uint)(bytes.Length - 1);
        }

        internal static string Read(byte* data, UIntPtr length)
        {
            int count = checked((int)length.ToUInt64());
            return data == null || count == 0 ? "" : Encoding.UTF8.GetString(data, count);
        }

        /// <summary>A static text that ends with a NUL.</summary>
        internal static string ReadStatic(byte* data)
        {
            int count = 0;
            while (data[count] != 0) count++;
            return Encoding.UTF8.GetString(data, count);
        }
    }

    /// <summary>Arrays that stay where they are while a call uses them.</summary>
    internal sealed unsafe class Pins : IDisposable
    {
        private readonly List<GCHandle> handles = new List<GCHandle>();

        /// <summary>The address of an array's first element; of an empty one any address but null.</summary>
        internal void* Pin(Array array)
        {
            GCHandle handle = GCHandle.Alloc(array.Length == 0 ? new byte[1] : array, GCHandleType.Pinned);
            handles.Add(handle);
            return (void*)handle.AddrOfPinnedObject();
        }

        internal byte* Text(string text, string what, out UIntPtr length)
        {
            byte[] bytes = Utf8.Bytes(text, what);
            length = Utf8.Length(bytes);
            return (byte*)Pin(bytes);
        }

        /// <summary>As <see cref="Text"/>; null stays null.</summary>
        internal byte* Optional(string text, string what, out UIntPtr length)
        {
            length = UIntPtr.Zero;
            return text == null ? null : Text(text, what, out length);
        }

        /// <summary>texts: an array, whose length is the same for whoever asks. A list of the program may grow meanwhile.</summary>
        internal capg_string[] Texts(string[] texts, string what)
        {
            var array = new capg_string[texts.Length];
            for (int i = 0; i < array.Length; i++) array[i].data = Text(texts[i], what, out array[i].len);
            return array;
        }

        public void Dispose()
        {
            foreach (GCHandle handle in handles) handle.Free();
            handles.Clear();
        }
    }
}
