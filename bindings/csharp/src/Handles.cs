using System;
using System.Runtime.InteropServices;

namespace CapsuleGraph
{
    internal enum Kind
    {
        Text,
        Tokens,
        Cancel,
        Log,
        Budget,
        Model,
        Session,
        Group,
        Part,
        Values,
        Capsule,
        Fetch,
    }

    /// <summary>A pointer that the library gave, freed when nothing uses it any more: a call that runs counts as a use, so that
    /// disposing on another thread cannot pull it away.</summary>
    internal sealed unsafe class Handle : SafeHandle
    {
        private readonly Kind kind;
        private volatile bool disposed;

        internal Handle(Kind kind) : base(IntPtr.Zero, true)
        {
            this.kind = kind;
        }

        public override bool IsInvalid
        {
            get { return handle == IntPtr.Zero; }
        }

        internal Kind Kind
        {
            get { return kind; }
        }

        /// <summary>Whether no further call may use it. IsClosed says so only when the calls that run are over.</summary>
        internal bool IsDisposed
        {
            get { return disposed; }
        }

        protected override void Dispose(bool disposing)
        {
            disposed = true;
            base.Dispose(disposing);
        }

        internal Handle Take(void* pointer)
        {
            SetHandle((IntPtr)pointer);
            return this;
        }

        protected override bool ReleaseHandle()
        {
            var raw = (void*)handle;
            switch (kind)
            {
                case Kind.Text: Native.capg_text_free((capg_text*)raw); break;
                case Kind.Tokens: Native.capg_tokens_free((capg_tokens*)raw); break;
                case Kind.Cancel: Native.capg_cancel_free((capg_cancel*)raw); break;
                case Kind.Log: Native.capg_log_free((capg_log*)raw); break;
                case Kind.Budget: Native.capg_budget_free((capg_budget*)raw); break;
                case Kind.Model: Native.capg_model_free((capg_model*)raw); break;
                case Kind.Session: Native.capg_session_free((capg_session*)raw); break;
                case Kind.Group: Native.capg_group_free((capg_group*)raw); break;
                case Kind.Part: Native.capg_part_free((capg_part*)raw); break;
                case Kind.Values: Native.capg_values_free((capg_values*)raw); break;
                case Kind.Capsule: Native.capg_capsule_free((capg_capsule*)raw); break;
                case Kind.Fetch: Native.capg_fetch_free((capg_fetch*)raw); break;
                default: return false;
            }
            return true;
        }
    }

    /// <summary>The use of a handle by a call: while it lasts, the handle is not freed.</summary>
    internal unsafe struct Use : IDisposable
    {
        private readonly Handle handle;

        /// <summary>handle: null of an argument that is left out.</summary>
        internal Use(Handle handle)
        {
            this.handle = handle;
            Pointer = null;
            if (handle == null) return;
            if (handle.IsDisposed) throw Disposed(handle);
            bool added = false;
            handle.DangerousAddRef(ref added);
            Pointer = (void*)handle.DangerousGetHandle();
        }

        internal void* Pointer { get; }

        public void Dispose()
        {
            if (handle != null) handle.DangerousRelease();
        }

        internal static ObjectDisposedException Disposed(Handle handle)
        {
            string name = handle.Kind == Kind.Values ? "Outputs" : handle.Kind.ToString();
            return new ObjectDisposedException(name, "It is disposed; make another one.");
        }
    }

    /// <summary>Something of the library. It is given back by <see cref="Dispose"/>, or when nothing refers to it any more. The
    /// collector does not see the memory that it holds, so that what is not disposed may stay for long.</summary>
    public abstract class Resource : IDisposable
    {
        internal readonly Handle Handle;

        internal Resource(Handle handle)
        {
            Handle = handle;
        }

        /// <summary>Whether it was disposed.</summary>
        public bool IsDisposed
        {
            get { return Handle.IsDisposed; }
        }

        /// <summary>Gives it back; where a call that runs still needs it, when that ends. Calls that begin later are refused with an
        /// <see cref="ObjectDisposedException"/>. A second time does nothing.</summary>
        public void Dispose()
        {
            Handle.Dispose();
            GC.SuppressFinalize(this);
        }

        /// <summary>What it is, and whether it was disposed.</summary>
        public override string ToString()
        {
            return IsDisposed ? GetType().Name + " (disposed)" : Describe();
        }

        /// <summary>For ToString: asks only what no other call can be in the way of.</summary>
        internal virtual string Describe()
        {
            return GetType().Name;
        }
    }

    /// <summary>Outputs of the library that are read once and freed.</summary>
    internal static unsafe class Returned
    {
        /// <summary>What a text says; frees it.</summary>
        internal static string Text(capg_text* raw)
        {
            using (Handle handle = new Handle(Kind.Text).Take(raw))
            {
                byte* data;
                UIntPtr length;
                capg_error* error;
                Failure.Check(Native.capg_text_view(raw, &data, &length, &error), error);
                return Utf8.Read(data, length);
            }
        }

        /// <summary>The ids of tokens; frees them.</summary>
        internal static int[] Tokens(capg_tokens* raw)
        {
            using (Handle handle = new Handle(Kind.Tokens).Take(raw))
            {
                uint* ids;
                UIntPtr count;
                capg_error* error;
                Failure.Check(Native.capg_tokens_view(raw, &ids, &count, &error), error);
                return Ids(ids, count);
            }
        }

        internal static int[] Ids(uint* ids, UIntPtr count)
        {
            var array = new int[checked((int)count.ToUInt64())];
            if (array.Length > 0) Marshal.Copy((IntPtr)ids, array, 0, array.Length);
            return array;
        }
    }

    internal static class Check
    {
        /// <summary>An option that may not be negative.</summary>
        internal static uint Count(int value, string what)
        {
            if (value < 0) throw new ArgumentOutOfRangeException(what, value, "It may not be negative.");
            return (uint)value;
        }

        /// <summary>As <see cref="Count"/>, of bytes.</summary>
        internal static ulong Bytes(long value, string what)
        {
            if (value < 0) throw new ArgumentOutOfRangeException(what, value, "It may not be negative.");
            return (ulong)value;
        }

        internal static T NotNull<T>(T value, string what) where T : class
        {
            if (value == null) throw new ArgumentNullException(what);
            return value;
        }
    }
}
