using System;
using System.Collections.Generic;
using System.Linq;
using System.Runtime.CompilerServices;
using System.Threading;

namespace CapsuleGraph
{
    /// <summary>Steps sessions of one model together, so that they share each pass over the weights.</summary>
    public sealed unsafe class Group : Resource
    {
        /// <summary>Makes one.</summary>
        public Group() : base(Make())
        {
        }

        private static Handle Make()
        {
            Library.Load();
            return New();
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static Handle New()
        {
            var handle = new Handle(Kind.Group);
            capg_group* raw;
            capg_error* error;
            Failure.Check(Native.capg_group_new(&raw, &error), error);
            return handle.Take(raw);
        }

        /// <summary>Goes on with these generations, of a session each; gives the text that became complete in each. At the end of one
        /// its FinishReason is no longer None.</summary>
        /// <param name="generations">Those that are at their end are left aside.</param>
        /// <param name="time">About how long; null: a tenth of a second; Timeout.InfiniteTimeSpan: no limit.</param>
        /// <param name="maxTokens">Tokens of each at most; 0: no limit.</param>
        /// <param name="cancellationToken">Stops it; nothing is lost.</param>
        public IReadOnlyList<string> Advance(IReadOnlyList<Generation> generations, TimeSpan? time = null, int maxTokens = 0,
            CancellationToken cancellationToken = default(CancellationToken))
        {
            Generation[] given = Check.NotNull(generations, nameof(generations)).ToArray();
            foreach (Generation one in given) Check.NotNull(one, nameof(generations));
            Generation[] running = given.Where(one => one.FinishReason == Finish.None).Distinct().ToArray();
            ulong microseconds = Microseconds(time ?? TimeSpan.FromMilliseconds(100), nameof(time));
            var turns = new Session.Turn[running.Length];
            int taken = 0;
            var texts = new Dictionary<Generation, string>();
            // In one order everywhere, so that two groups do not each have what the other wants.
            Array.Sort(running, (a, b) => a.Session.Number.CompareTo(b.Session.Number));
            try
            {
                for (; taken < running.Length; taken++)
                {
                    turns[taken] = new Session.Turn(running[taken].Session);
                }
                Advance(running, turns, microseconds, Check.Count(maxTokens, nameof(maxTokens)), cancellationToken);
                for (int i = 0; i < running.Length; i++) texts[running[i]] = running[i].TakeSlice(turns[i].Pointer);
            }
            finally
            {
                while (taken > 0) turns[--taken].Dispose();
            }
            return given.Select(one => texts.ContainsKey(one) ? texts[one] : "").ToArray();
        }

        /// <summary>As the library takes it, for which 0 is no limit.</summary>
        private static ulong Microseconds(TimeSpan time, string what)
        {
            if (time == Timeout.InfiniteTimeSpan) return 0;
            if (time >= TimeSpan.Zero) return (ulong)Math.Max(1, time.Ticks / 10);
            throw new ArgumentOutOfRangeException(what, time, "It may not be negative; Timeout.InfiniteTimeSpan is no limit.");
        }

        private void Advance(Generation[] running, Session.Turn[] turns, ulong microseconds, uint maxTokens, CancellationToken token)
        {
            if (running.Length == 0) return;
            foreach (Generation one in running) one.CheckCurrent();
            var sessions = new IntPtr[turns.Length];
            for (int i = 0; i < turns.Length; i++) sessions[i] = (IntPtr)turns[i].Pointer;
            using (var group = new Use(Handle))
            using (var cancel = new CancelScope(token))
            using (var pins = new Pins())
            {
                var first = (capg_session**)pins.Pin(sessions);
                capg_error* error;
                uint status = Native.capg_group_advance((capg_group*)group.Pointer, first, (UIntPtr)(uint)sessions.Length, microseconds,
                    (UIntPtr)maxTokens, cancel.Pointer, null, &error);
                cancel.Check(status, error);
            }
        }
    }
}
