using System.Collections.Generic;
using System.Runtime.CompilerServices;

namespace CapsuleGraph
{
    /// <summary>How important a line of a log is.</summary>
    public enum LogLevel
    {
        /// <summary>A call failed.</summary>
        Error = (int)Native.CAPG_LOG_ERROR,
        /// <summary>Something is not as it was asked for.</summary>
        Warning = (int)Native.CAPG_LOG_WARNING,
        /// <summary>What was done.</summary>
        Info = (int)Native.CAPG_LOG_INFO,
        /// <summary>Details.</summary>
        Debug = (int)Native.CAPG_LOG_DEBUG,
    }

    /// <summary>A line of a log.</summary>
    public struct LogLine
    {
        /// <summary>Makes one of a level and a text.</summary>
        public LogLine(LogLevel level, string text)
        {
            Level = level;
            Text = text;
        }

        /// <summary>How important it is.</summary>
        public LogLevel Level { get; }

        /// <summary>What it says, without a line feed.</summary>
        public string Text { get; }

        /// <summary>Level and text.</summary>
        public override string ToString()
        {
            return Level + ": " + Text;
        }
    }

    /// <summary>Keeps log lines until they are taken: at most 1024, then the oldest go. Name it in the options of models and jobs.</summary>
    public sealed unsafe class Log : Resource
    {
        /// <summary>Makes one that keeps lines of this level and the more important ones.</summary>
        public Log(LogLevel level = LogLevel.Info) : base(Make(level))
        {
        }

        private static Handle Make(LogLevel level)
        {
            Library.Load();
            return New(level);
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static Handle New(LogLevel level)
        {
            var handle = new Handle(Kind.Log);
            capg_log* raw;
            capg_error* error;
            Failure.Check(Native.capg_log_new((uint)level, &raw, &error), error);
            return handle.Take(raw);
        }

        /// <summary>The lines that have come since they were last taken, oldest first.</summary>
        public IReadOnlyList<LogLine> Take()
        {
            using (var log = new Use(Handle))
            using (var receiver = new LineReceiver())
            {
                capg_error* error;
                uint status;
                try
                {
                }
                finally
                {
                    // Aborts wait for its end: see Callback.
                    status = Native.capg_log_deliver((capg_log*)log.Pointer, LineReceiver.Entry, receiver.Data, &error);
                }
                Failure.Check(status, error);
                receiver.Rethrow();
                return receiver.Lines;
            }
        }
    }
}
