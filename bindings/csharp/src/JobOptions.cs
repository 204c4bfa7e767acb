using System;

namespace CapsuleGraph
{
    /// <summary>What a job is doing.</summary>
    public enum JobPhase
    {
        /// <summary>The full file is being written.</summary>
        Convert = (int)Native.CAPG_PHASE_CONVERT,
        /// <summary>The mini is being written.</summary>
        Split = (int)Native.CAPG_PHASE_SPLIT,
        /// <summary>A file is being read and checked, or rebuilt.</summary>
        Verify = (int)Native.CAPG_PHASE_VERIFY,
    }

    /// <summary>How far a job is.</summary>
    public struct JobProgress
    {
        /// <summary>Makes one.</summary>
        public JobProgress(JobPhase phase, long done, long total)
        {
            Phase = phase;
            Done = done;
            Total = total;
        }

        /// <summary>What it is doing.</summary>
        public JobPhase Phase { get; }

        /// <summary>Bytes done in this phase.</summary>
        public long Done { get; }

        /// <summary>Bytes in all.</summary>
        public long Total { get; }

        /// <summary>Such as Convert: 10 of 100 bytes.</summary>
        public override string ToString()
        {
            return Phase + ": " + Done + " of " + Total + " bytes";
        }
    }

    /// <summary>How weights are stored in a full file.</summary>
    public enum Planes
    {
        /// <summary>Divided where a mini is made that can use it.</summary>
        Auto = (int)Native.CAPG_PLANES_AUTO,
        /// <summary>As kernels read them.</summary>
        Whole = (int)Native.CAPG_PLANES_WHOLE,
        /// <summary>In two planes where their encoding can be; a mini can then hold the first ones.</summary>
        Divided = (int)Native.CAPG_PLANES_DIVIDED,
    }

    /// <summary>What every job on files takes.</summary>
    public abstract class JobOptions
    {
        internal JobOptions()
        {
        }

        /// <summary>Is told how far the job is, on the thread that called. What it throws ends the job and is thrown again; no file
        /// is left half-written.</summary>
        public IProgress<JobProgress> Progress { get; set; }

        /// <summary>Receives log lines.</summary>
        public Log Log { get; set; }
    }

    /// <summary>How to make a mini.</summary>
    public class SplitOptions : JobOptions
    {
        /// <summary>Light forms that the mini may use: "auto" (where it is null), "none", or the name of an encoding.</summary>
        public string Light { get; set; }

        /// <summary>Length of the mini at most, in bytes; 0: by the precision of the model.</summary>
        public long MiniBytes { get; set; }

        /// <summary>Text on which the agreement of mini and full file is measured; of an ONNX model lines of NAME=FILE.npy.</summary>
        public string Calibrate { get; set; }

        /// <summary>Of an ONNX model: how far the mini's outputs may be from the full file's; 0: the default of 0.05.</summary>
        public float MaxError { get; set; }

        /// <summary>Path of ONNX Runtime's library or its folder, to measure the mini of an ONNX model with; null: as
        /// <see cref="ModelOptions.OnnxRuntime"/>.</summary>
        public string OnnxRuntime { get; set; }
    }

    /// <summary>How to convert.</summary>
    public sealed class ConvertOptions : SplitOptions
    {
        /// <summary>Write no mini.</summary>
        public bool NoMini { get; set; }

        /// <summary>Path of the mini; null: the target's name with .mini.cgraph.</summary>
        public string MiniPath { get; set; }

        /// <summary>How weights are stored.</summary>
        public Planes Planes { get; set; }

        /// <summary>Of an ONNX model: bytes of weights in a capsule at most; 0: 32 MiB.</summary>
        public long CapsuleBytes { get; set; }

        /// <summary>Of an ONNX model: number of capsules; 0: by <see cref="CapsuleBytes"/>.</summary>
        public int CapsuleCount { get; set; }
    }

    /// <summary>How to verify.</summary>
    public sealed class VerifyOptions : JobOptions
    {
        /// <summary>Path of a mini's full file; null: the file of the recorded name beside the mini.</summary>
        public string FullPath { get; set; }

        /// <summary>Read everything and hold it against the checksums.</summary>
        public bool Deep { get; set; }

        /// <summary>Where there are problems, rebuild the mini from its full file and verify again.</summary>
        public bool Repair { get; set; }
    }

    /// <summary>What verifying found.</summary>
    public sealed class VerifyResult
    {
        internal VerifyResult(int problemCount, string report)
        {
            ProblemCount = problemCount;
            Report = report;
        }

        /// <summary>Number of problems, after the repair where one was made.</summary>
        public int ProblemCount { get; }

        /// <summary>A JSON object that lists them.</summary>
        public string Report { get; }

        /// <summary>The report.</summary>
        public override string ToString()
        {
            return Report;
        }
    }
}
