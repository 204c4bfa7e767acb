using System;
using System.Threading;

namespace CapsuleGraph
{
    /// <summary>A CancellationToken for the time of a call, as the library takes it.</summary>
    internal sealed unsafe class CancelScope : IDisposable
    {
        private static readonly Action<object> TriggerIt = scope => ((CancelScope)scope).Trigger();

        private readonly CancellationToken token;
        private readonly Handle handle;
        private readonly CancellationTokenRegistration registration;

        /// <summary>always: there is something to trigger also where the token cannot be cancelled.</summary>
        internal CancelScope(CancellationToken token, bool always = false)
        {
            token.ThrowIfCancellationRequested();
            this.token = token;
            if (!always && !token.CanBeCanceled) return;
            handle = new Handle(Kind.Cancel);
            capg_cancel* raw;
            capg_error* error;
            Failure.Check(Native.capg_cancel_new(&raw, &error), error);
            handle.Take(raw);
            registration = token.Register(TriggerIt, this, false);
        }

        /// <summary>Null where there is nothing that could cancel.</summary>
        internal capg_cancel* Pointer
        {
            get { return handle == null ? null : (capg_cancel*)handle.DangerousGetHandle(); }
        }

        internal void Trigger()
        {
            capg_error* error;
            Failure.Check(Native.capg_cancel_trigger(Pointer, &error), error);
        }

        /// <summary>Throws where the call failed.</summary>
        internal void Check(uint status, capg_error* error)
        {
            if (status != Native.CAPG_OK) throw Failure.Make(status, error, token);
        }

        public void Dispose()
        {
            // Waits for a trigger on another thread, which uses the handle.
            registration.Dispose();
            if (handle != null) handle.Dispose();
        }
    }
}
