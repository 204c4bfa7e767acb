//! Running the engines: one process each for a list of tests, and what their reports say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::models::Model;
use super::results::{DEPTHS, Engine, FIRST, Figure, Measured, PASS_DEPTH, PASSES, PROMPTS};
use super::{disk, program, run};
use crate::shell::{Outcome, capture, root};

/// The programs that compute, and where their files are.
#[derive(Debug)]
pub struct Programs {
    pub cgraph: PathBuf,
    /// The Python with llama.cpp, where it is measured too.
    pub python: Option<PathBuf>,
    /// Converted models.
    pub folder: PathBuf,
}

/// A model on its way through the measurements.
#[derive(Debug)]
pub struct Subject<'a> {
    pub model: &'a Model,
    pub source: PathBuf,
    pub converted: PathBuf,
}

/// The tests of one process.
struct Plan {
    threads: usize,
    prompts: &'static [usize],
    /// Contexts from the greatest on, as both engines keep one for the next.
    depths: &'static [usize],
    passes: &'static [usize],
}

const DEEPEST_FIRST: [usize; 3] = [DEPTHS[2], DEPTHS[1], DEPTHS[0]];
const WHOLE: Plan = Plan { threads: 2, prompts: &PROMPTS, depths: &DEEPEST_FIRST, passes: &PASSES };
const ONE_THREAD: Plan = Plan { threads: 1, prompts: &[512], depths: &[0], passes: &[5] };

fn list(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn parse(text: &str) -> Outcome<Value> {
    serde_json::from_str(text.trim()).map_err(|e| format!("no JSON ({e}): {text}"))
}

fn number(report: &Value, key: &str) -> Outcome<f64> {
    report[key].as_f64().ok_or_else(|| format!("the report has no number {key}: {report}"))
}

impl Programs {
    /// One report of `cgraph bench`, every test measured once.
    pub fn own(&self, converted: &Path, threads: usize, arguments: &[&str]) -> Outcome<Value> {
        let mut command = Command::new(&self.cgraph);
        command.arg("bench").arg(converted).args(["--repeat", "1", "--json"]);
        command.args(["--threads", &threads.to_string()]).args(arguments);
        parse(&capture(&mut command)?)
    }

    /// One line of `peer.py speed`.
    pub fn peer(&self, python: &Path, source: &Path, engine: Engine, arguments: &[&str]) -> Outcome<Value> {
        let mut command = Command::new(python);
        command.arg(root().join("xtask/python/peer.py")).arg("speed").arg(source);
        command.args(["--first", &FIRST.to_string()]).args(arguments);
        if engine == Engine::Mapped {
            command.arg("--no-repack");
        }
        parse(&capture(&mut command)?)
    }

    /// All engines in alternation, and the machine's own bandwidth, so that a drift of the machine meets each.
    pub fn round(&self, subject: &Subject<'_>, measured: &mut Measured) -> Outcome {
        let kernels = program("kernels", "--limits")?;
        for plan in [WHOLE, ONE_THREAD] {
            let read = run::limit(&kernels["limits"], "read", plan.threads).ok_or("no read bandwidth")?;
            measured.add(Engine::Ours, Figure::MemoryRead(plan.threads), read);
            self.own_speeds(subject, &plan, measured)?;
            for engine in Engine::PEERS {
                self.peer_speeds(subject, &plan, engine, measured)?;
            }
        }
        self.busy(subject, measured)
    }

    /// Opening takes next to no time, so lists that do not multiply are processes of their own.
    fn own_speeds(&self, subject: &Subject<'_>, plan: &Plan, measured: &mut Measured) -> Outcome {
        // A system that reclaims idle pages has taken the file away while the other engines ran.
        disk::warm(&subject.converted)?;
        let (generate, depth) = (subject.model.generate.to_string(), PASS_DEPTH.to_string());
        let (prompts, depths, passes) = (list(plan.prompts), list(plan.depths), list(plan.passes));
        let prefill = self.own(&subject.converted, plan.threads, &["-p", &prompts, "-n", "0"])?;
        let decode =
            self.own(&subject.converted, plan.threads, &["-p", "0", "-n", &generate, "--depth", &depths])?;
        let pass_options = ["-p", "0", "-n", "0", "--pass", &passes, "--depth", &depth];
        let pass = self.own(&subject.converted, plan.threads, &pass_options)?;
        let mut add = |report: &Value, figure: &dyn Fn(usize, usize) -> Figure| -> Outcome {
            for test in report["tests"].as_array().into_iter().flatten() {
                let speed = number(test, "tokens_per_s")?;
                let [tokens, depth] = ["tokens", "depth"].map(|key| number(test, key).map(|n| n as usize));
                measured.add(Engine::Ours, figure(tokens?, depth?), speed);
            }
            Ok(())
        };
        add(&prefill, &|tokens, _| Figure::Prefill(tokens, plan.threads))?;
        add(&decode, &|_, depth| Figure::Decode(depth, plan.threads))?;
        add(&pass, &|tokens, _| Figure::Pass(tokens, plan.threads))?;
        if plan.threads == WHOLE.threads {
            measured.add(Engine::Ours, Figure::Warm, own_first_token(&prefill)?);
            own_memory(&[prefill, decode, pass], measured)?;
        }
        Ok(())
    }

    fn peer_speeds(
        &self,
        subject: &Subject<'_>,
        plan: &Plan,
        engine: Engine,
        measured: &mut Measured,
    ) -> Outcome {
        let Some(python) = &self.python else { return Ok(()) };
        disk::warm(&subject.source)?;
        let (threads, generate) = (plan.threads.to_string(), subject.model.generate.to_string());
        let (prompts, depths, passes) = (list(plan.prompts), list(plan.depths), list(plan.passes));
        let mut options = vec!["--threads", &threads, "--prompt", &prompts, "--generate", &generate];
        let depth = PASS_DEPTH.to_string();
        options.extend(["--depth", &depths, "--pass", &passes, "--pass-depth", &depth]);
        let report = self.peer(python, &subject.source, engine, &options)?;
        for n in plan.prompts {
            let speed = number(&report["prefill"], &n.to_string())?;
            measured.add(engine, Figure::Prefill(*n, plan.threads), speed);
        }
        for depth in plan.depths {
            let speed = number(&report["decode"], &depth.to_string())?;
            measured.add(engine, Figure::Decode(*depth, plan.threads), speed);
        }
        for n in plan.passes {
            let speed = number(&report["pass"], &n.to_string())?;
            measured.add(engine, Figure::Pass(*n, plan.threads), speed);
        }
        if plan.threads == WHOLE.threads {
            measured.add(engine, Figure::Warm, number(&report, "first_token_ms")?);
            measured.add(engine, Figure::Anonymous, number(&report, "anonymous_bytes")?);
            measured.add(engine, Figure::Resident, number(&report, "resident_bytes")?);
        }
        Ok(())
    }

    /// Decoding on two threads while a process that never waits keeps a core busy. llama.cpp decodes an eighth
    /// of the tokens: its threads wait for each other by spinning.
    fn busy(&self, subject: &Subject<'_>, measured: &mut Measured) -> Outcome {
        disk::warm(&subject.converted)?;
        disk::warm(&subject.source)?;
        let _spinner = Spinner::start()?;
        let tokens = subject.model.generate;
        let report = self.own(&subject.converted, WHOLE.threads, &["-p", "0", "-n", &tokens.to_string()])?;
        measured.add(Engine::Ours, Figure::Busy, number(&report, "decode_tokens_per_s")?);
        let Some(python) = &self.python else { return Ok(()) };
        let few = (tokens / 8).to_string();
        for engine in Engine::PEERS {
            let threads = WHOLE.threads.to_string();
            let options = ["--threads", &threads, "--generate", &few, "--depth", "0"];
            let report = self.peer(python, &subject.source, engine, &options)?;
            measured.add(engine, Figure::Busy, number(&report["decode"], "0")?);
        }
        Ok(())
    }

    /// The first token with both files out of the page cache, every engine once, in another order each round. The
    /// disk's own speed comes last: caches below the page cache, which nothing here empties, know the file better
    /// after every read.
    pub fn cold(&self, subject: &Subject<'_>, round: usize, measured: &mut Measured) -> Outcome {
        let (threads, first) = (WHOLE.threads.to_string(), FIRST.to_string());
        let mut engines = Engine::ALL;
        engines.rotate_left(round % Engine::ALL.len());
        for engine in engines {
            for file in [&subject.source, &subject.converted] {
                disk::evict(file)?;
            }
            let ms = match (engine, &self.python) {
                (Engine::Ours, _) => own_first_token(&self.own(
                    &subject.converted,
                    WHOLE.threads,
                    &["-p", &first, "-n", "0"],
                )?)?,
                (_, Some(python)) => {
                    let report = self.peer(python, &subject.source, engine, &["--threads", &threads])?;
                    number(&report, "first_token_ms")?
                }
                (_, None) => continue,
            };
            measured.add(engine, Figure::Cold, ms);
        }
        disk::evict(&subject.converted)?;
        measured.add(Engine::Ours, Figure::DiskRead, disk::direct_read(&subject.converted)?);
        Ok(())
    }

    /// Converts the model; with `timed`, speed and memory are measured, and the disk's own speed just before.
    pub fn convert(&self, subject: &Subject<'_>, timed: bool, measured: &mut Measured) -> Outcome {
        if timed {
            // The probe writes a new file too, and releases an old one off the clock.
            if subject.converted.exists() {
                fs::remove_file(&subject.converted)
                    .map_err(|e| format!("cannot remove {}: {e}", subject.converted.display()))?;
            }
            let probe = self.folder.join("probe");
            let speed = disk::sequential_write(&probe, measured.source_bytes)?;
            measured.add(Engine::Ours, Figure::DiskWrite, speed);
            // After the probe, whose pages may have taken the source's place.
            disk::warm(&subject.source)?;
        }
        let begun = Instant::now();
        let mut command = Command::new(&self.cgraph);
        command.arg("convert").arg(&subject.source).arg("-o").arg(&subject.converted);
        let mut child = command
            .args(["--no-mini", "-q"])
            .spawn()
            .map_err(|e| format!("cannot start {}: {e}", self.cgraph.display()))?;
        let mut resident = 0;
        let status = loop {
            resident = resident.max(peak_resident(child.id()));
            if let Some(status) = child.try_wait().map_err(|e| format!("cannot wait: {e}"))? {
                break status;
            }
            thread::sleep(Duration::from_millis(2));
        };
        if !status.success() {
            return Err(format!("converting {} failed: {status}", subject.source.display()));
        }
        let seconds = begun.elapsed().as_secs_f64();
        measured.file_bytes = length(&subject.converted)?;
        if timed {
            measured.add(Engine::Ours, Figure::Convert, measured.file_bytes as f64 / seconds);
            measured.add(Engine::Ours, Figure::ConvertResident, resident as f64);
        }
        Ok(())
    }

    /// Bytes of weights that one token reads: all but an embedding that is not the head too, of which it reads
    /// one row.
    pub fn weight_bytes(&self, subject: &Subject<'_>) -> Outcome<u64> {
        let mut command = Command::new(&self.cgraph);
        let facts =
            parse(&capture(command.arg("inspect").arg(&subject.converted).args(["--json", "--capsules"]))?)?;
        let capsules = facts["capsules"].as_array().cloned().unwrap_or_default();
        let bytes = |capsule: &Value| -> u64 {
            let tensors = capsule["tensors"].as_array().into_iter().flatten();
            let planes = tensors.flat_map(|t| t["planes"].as_array().into_iter().flatten());
            planes.filter_map(|plane| plane["len"].as_u64()).sum()
        };
        let tied = capsules.iter().any(|c| c["id"] == "head" && c["shared"].is_array());
        Ok(capsules.iter().filter(|c| tied || c["id"] != "embed").map(bytes).sum())
    }
}

/// From nothing to the first token.
pub fn own_first_token(report: &Value) -> Outcome<f64> {
    Ok(number(report, "open_ms")? + number(report, "first_token_ms")?)
}

/// The largest figures of some processes: anonymous memory of those sampled after each test, resident memory as the
/// system keeps its peak. Each process fills its KV cache but for a few positions.
fn own_memory(reports: &[Value], measured: &mut Measured) -> Outcome {
    let (mut anonymous, mut beyond, mut resident) = (0f64, 0f64, 0f64);
    for report in reports {
        let memory = &report["memory"];
        let own = number(memory, "peak_anonymous_bytes")? - number(memory, "start_anonymous_bytes")?;
        let (kv, buffers) = (number(memory, "kv_bytes")?, number(memory, "buffers_bytes")?);
        anonymous = anonymous.max(own);
        beyond = beyond.max(own - kv - buffers);
        resident = resident.max(number(memory, "peak_rss_bytes")?);
        measured.kv_bytes = measured.kv_bytes.max(kv as u64);
    }
    measured.add(Engine::Ours, Figure::Anonymous, anonymous);
    measured.add(Engine::Ours, Figure::Beyond, beyond);
    measured.add(Engine::Ours, Figure::Resident, resident);
    Ok(())
}

pub fn length(path: &Path) -> Outcome<u64> {
    fs::metadata(path).map(|m| m.len()).map_err(|e| format!("cannot stat {}: {e}", path.display()))
}

/// The peak of a running process, or 0.
fn peak_resident(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let field = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    field.and_then(|f| f.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// A process that keeps one core busy until it is dropped.
struct Spinner(Child);

impl Spinner {
    fn start() -> Outcome<Self> {
        let mut shell = Command::new("sh");
        let child = shell.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        child.map(Self).map_err(|e| format!("cannot start a busy process: {e}"))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        // It runs until it is killed; that it is gone already would change nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
