//! The machine that figures are of.

use serde::Serialize;

/// A machine, as far as it explains figures.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// As the kernel names them; empty where it does not.
    pub processor: String,
    /// How many may be used at once.
    pub processors: usize,
    /// In bytes.
    pub memory: u64,
    /// `Linux 6.1.0`.
    pub kernel: String,
}

impl Machine {
    /// This one. (`/proc/cpuinfo`, uname(2), sysinfo(2).)
    pub fn this() -> Machine {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        let system = rustix::system::uname();
        let memory = rustix::system::sysinfo();
        Machine {
            processor: model.unwrap_or_default(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: (memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit)),
            kernel: format!(
                "{} {}",
                system.sysname().to_string_lossy(),
                system.release().to_string_lossy()
            ),
        }
    }

    /// In one line.
    pub fn describe(&self) -> String {
        let processors = match self.processors {
            1 => "1 processor".to_owned(),
            n => format!("{n} processors"),
        };
        let named = match self.processor.as_str() {
            "" => String::new(),
            name => format!(" ({name})"),
        };
        let gib = self.memory as f64 / f64::from(1 << 30);
        format!("{processors}{named}, {gib:.0} GiB, {}", self.kernel)
    }
}
