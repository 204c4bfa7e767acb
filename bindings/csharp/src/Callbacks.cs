using System;
using System.IO;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Threading;
#if UNITY_5_3_OR_NEWER
using AOT;
#endif

namespace CapsuleGraph
{
#if !UNITY_5_3_OR_NEWER
    /// <summary>What Unity's ahead-of-time compiler looks for; elsewhere without a meaning.</summary>
    [AttributeUsage(AttributeTargets.Method)]
    internal sealed class MonoPInvokeCallbackAttribute : Attribute
    {
        internal MonoPInvokeCallbackAttribute(Type type)
        {
            Type = type;
        }

        internal Type Type { get; }
    }
#endif

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    internal unsafe delegate void ProgressDelegate(void* data, uint phase, ulong done, ulong total);

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    internal unsafe delegate int ReadDelegate(void* data, ulong offset, void* buffer, UIntPtr length);

    /// <summary>What a native call calls back. The delegates that the library gets are static and live for ever; which object is
    /// meant goes along as a GCHandle. An exception is kept, the library told to stop, and the exception thrown again behind the
    /// call: none passes through native frames.
    /// Nor does an abort of the thread (Mono, Unity, .NET Framework), which would come wherever the thread next is in managed code: the
    /// native call is in a finally block, which aborts wait for, and the library is told to stop.</summary>
    internal abstract unsafe class Callback : IDisposable
    {
        private GCHandle self;
        private ExceptionDispatchInfo failure;
        private bool aborted;

        /// <summary>For the user_data of the call; valid until it is disposed.</summary>
        internal void* Data
        {
            get
            {
                if (!self.IsAllocated) self = GCHandle.Alloc(this);
                return (void*)GCHandle.ToIntPtr(self);
            }
        }

        /// <summary>Whether the thread is to be aborted, which waits for the call's end.</summary>
        protected static bool Aborting
        {
            get { return (Thread.CurrentThread.ThreadState & ThreadState.AbortRequested) != 0; }
        }

        internal bool Failed
        {
            get { return failure != null; }
        }

#if CAPSULEGRAPH_SPANS
#pragma warning disable SYSLIB0006 // .NET aborts no thread; Mono, Unity and .NET Framework do.
#endif
        internal void Keep(Exception error)
        {
            if (failure == null) failure = ExceptionDispatchInfo.Capture(error);
            if (!(error is ThreadAbortException)) return;
            // The callback aborted its own thread, which does not wait, and would go on behind the handler that caught it.
            Thread.ResetAbort();
            aborted = true;
        }

        /// <summary>Throws what a callback threw; comes before what the call itself says.</summary>
        internal void Rethrow()
        {
            if (aborted) Thread.CurrentThread.Abort();
            if (failure != null) failure.Throw();
        }
#if CAPSULEGRAPH_SPANS
#pragma warning restore SYSLIB0006
#endif

        public void Dispose()
        {
            if (self.IsAllocated) self.Free();
        }

        protected static T Of<T>(void* data) where T : Callback
        {
            return (T)GCHandle.FromIntPtr((IntPtr)data).Target;
        }
    }

    internal sealed unsafe class TokenReceiver : Callback
    {
        internal static readonly Native.capg_session_generate_callback_delegate Entry = Receive;

        private readonly TokenCallback callback;

        internal TokenReceiver(TokenCallback callback)
        {
            this.callback = callback;
        }

        [MonoPInvokeCallback(typeof(Native.capg_session_generate_callback_delegate))]
        private static int Receive(void* data, uint token, byte* text, UIntPtr length)
        {
            var self = Of<TokenReceiver>(data);
            try
            {
                return self.callback((int)token, Utf8.Read(text, length)) && !Aborting ? 0 : 1;
            }
            catch (Exception error)
            {
                self.Keep(error);
                return 1;
            }
        }
    }

    internal sealed unsafe class LineReceiver : Callback
    {
        internal static readonly Native.capg_log_deliver_callback_delegate Entry = Receive;

        internal readonly System.Collections.Generic.List<LogLine> Lines = new System.Collections.Generic.List<LogLine>();

        [MonoPInvokeCallback(typeof(Native.capg_log_deliver_callback_delegate))]
        private static void Receive(void* data, uint level, byte* line, UIntPtr length)
        {
            var self = Of<LineReceiver>(data);
            try
            {
                self.Lines.Add(new LogLine((LogLevel)level, Utf8.Read(line, length)));
            }
            catch (Exception error)
            {
                self.Keep(error);
            }
        }
    }

    internal sealed unsafe class ProgressReceiver : Callback
    {
        private static readonly ProgressDelegate Entry = Receive;
        internal static readonly void* EntryPoint = (void*)Marshal.GetFunctionPointerForDelegate(Entry);

        private readonly IProgress<JobProgress> progress;
        private readonly CancelScope cancel;

        internal ProgressReceiver(IProgress<JobProgress> progress, CancelScope cancel)
        {
            this.progress = progress;
            this.cancel = cancel;
        }

        [MonoPInvokeCallback(typeof(ProgressDelegate))]
        private static void Receive(void* data, uint phase, ulong done, ulong total)
        {
            var self = Of<ProgressReceiver>(data);
            if (self.Failed) return;
            try
            {
                self.progress.Report(new JobProgress((JobPhase)phase, (long)done, (long)total));
                if (Aborting) self.cancel.Trigger();
            }
            catch (Exception error)
            {
                self.Keep(error);
                self.cancel.Trigger();
            }
        }
    }

    /// <summary>A stream that the library reads a file from.</summary>
    internal sealed unsafe class StreamSource : Callback
    {
        private static readonly ReadDelegate Entry = Receive;
        private static readonly void* EntryPoint = (void*)Marshal.GetFunctionPointerForDelegate(Entry);

        private readonly Stream stream;
        private readonly string what;
        private byte[] buffer = new byte[0];

        internal StreamSource(Stream stream, string what)
        {
            this.stream = stream;
            this.what = what;
            if (stream.CanRead && stream.CanSeek) return;
            throw new ArgumentException("The stream must be one that can be read and sought.", what);
        }

        internal capg_reader Reader(Pins pins)
        {
            var reader = new capg_reader();
            reader.struct_size = (UIntPtr)(uint)sizeof(capg_reader);
            reader.read = EntryPoint;
            reader.user_data = Data;
            var file = stream as FileStream;
            if (file != null) reader.name = pins.Text(file.Name, what, out reader.name_len);
            if (stream.Length < 0) throw new ArgumentException("The stream gives its length as " + stream.Length + ".", what);
            reader.size = (ulong)stream.Length;
            return reader;
        }

        [MonoPInvokeCallback(typeof(ReadDelegate))]
        private static int Receive(void* data, ulong offset, void* target, UIntPtr length)
        {
            var self = Of<StreamSource>(data);
            try
            {
                self.Read((long)offset, (byte*)target, (long)length);
                return Aborting ? 1 : 0;
            }
            catch (Exception error)
            {
                self.Keep(error);
                return 1;
            }
        }

        private void Read(long offset, byte* target, long length)
        {
            const int Most = 1 << 20;
            if (buffer.Length == 0) buffer = new byte[Most];
            stream.Seek(offset, SeekOrigin.Begin);
            while (length > 0)
            {
                int asked = (int)Math.Min(length, Most), count = stream.Read(buffer, 0, asked);
                if (count <= 0) throw new EndOfStreamException("the stream ended " + length + " bytes early");
                // What is behind target's end is not the stream's to write to.
                if (count > asked) throw new IOException("the stream says that it read " + count + " bytes of " + asked + " asked for");
                Marshal.Copy(buffer, 0, (IntPtr)target, count);
                target += count;
                length -= count;
            }
        }
    }
}
