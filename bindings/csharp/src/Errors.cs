using System;
using System.IO;
using System.Threading;

namespace CapsuleGraph
{
    /// <summary>Why a call failed. A library that is newer may have other numbers, which are failures too.</summary>
    public enum Status
    {
        /// <summary>It did not.</summary>
        Ok = (int)Native.CAPG_OK,
        /// <summary>An argument or option is out of range or contradicts another.</summary>
        InvalidArgument = (int)Native.CAPG_ERROR_INVALID_ARGUMENT,
        /// <summary>Valid, but this version or this kind of model cannot do it.</summary>
        Unsupported = (int)Native.CAPG_ERROR_UNSUPPORTED,
        /// <summary>The system refused to open, read, map, write or rename a file.</summary>
        IO = (int)Native.CAPG_ERROR_IO,
        /// <summary>A file is not what its format demands.</summary>
        Malformed = (int)Native.CAPG_ERROR_MALFORMED,
        /// <summary>Mini and full file, or file and mode, do not belong together; or ONNX Runtime refuses a graph.</summary>
        Mismatch = (int)Native.CAPG_ERROR_MISMATCH,
        /// <summary>Stored bytes do not match their checksum.</summary>
        Corrupt = (int)Native.CAPG_ERROR_CORRUPT,
        /// <summary>No capsule, tensor or output of that name or number; or no ONNX Runtime.</summary>
        NotFound = (int)Native.CAPG_ERROR_NOT_FOUND,
        /// <summary>A limit (context, size, memory) does not allow it; the message names the limit.</summary>
        Limit = (int)Native.CAPG_ERROR_LIMIT,
        /// <summary>The call was cancelled; it comes as an <see cref="OperationCanceledException"/>.</summary>
        Cancelled = (int)Native.CAPG_ERROR_CANCELLED,
        /// <summary>A stream that the model is read from failed.</summary>
        Host = (int)Native.CAPG_ERROR_HOST,
        /// <summary>Another call is using the session, part or group, or a capsule has not come yet.</summary>
        Busy = (int)Native.CAPG_ERROR_BUSY,
        /// <summary>A defect of the library; please report it.</summary>
        Internal = (int)Native.CAPG_ERROR_INTERNAL,
    }

    /// <summary>A call of the library failed. The message says what, where, why, and what to do.</summary>
    /// <remarks>Of <see cref="CapsuleGraph.Status.IO"/> the inner exception is a <see cref="FileNotFoundException"/> where a file or
    /// folder is not there, else an <see cref="IOException"/>.</remarks>
    public class CapsuleGraphException : Exception
    {
        /// <summary>Makes one of a status, a message and what it came from.</summary>
        public CapsuleGraphException(Status status, string message, Exception inner = null) : base(message, inner)
        {
            Status = status;
        }

        /// <summary>Why it failed.</summary>
        public Status Status { get; }
    }

    /// <summary>The library cannot be used: it is not there, is another one, or is of another release.</summary>
    public class LibraryException : Exception
    {
        /// <summary>Makes one of a message and what it came from.</summary>
        public LibraryException(string message, Exception inner = null) : base(message, inner)
        {
        }
    }

    internal static unsafe class Failure
    {
        /// <summary>Throws where a call failed, and frees its error.</summary>
        internal static void Check(uint status, capg_error* error)
        {
            if (status != Native.CAPG_OK) throw Make(status, error, default(CancellationToken));
        }

        internal static Exception Make(uint status, capg_error* error, CancellationToken token)
        {
            UIntPtr length;
            byte* text = Native.capg_error_message(error, &length);
            string message = Utf8.Read(text, length);
            Native.capg_error_free(error);
            if (status == Native.CAPG_ERROR_CANCELLED) return new OperationCanceledException(message, token);
            if (message.Length == 0) message = "status " + status;
            return new CapsuleGraphException((Status)status, message, status == Native.CAPG_ERROR_IO ? Cause(message) : null);
        }

        /// <summary>The system's numbers of what is not there, by which the library's messages end: 2 everywhere, 3 of folders on
        /// Windows.</summary>
        private static Exception Cause(string message)
        {
            bool missing = message.Contains("(os error 2)") || message.Contains("(os error 3)");
            return missing ? new FileNotFoundException(message) : new IOException(message);
        }
    }
}
