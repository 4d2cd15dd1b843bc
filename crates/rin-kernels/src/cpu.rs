//! What this processor can run, and the float environment that the bit contract asks for.
//!
//! The only place that asks the hardware.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// The features that the processor does not have.
#[cfg(target_arch = "x86_64")]
macro_rules! lacking {
    ($($feature:tt),+ $(,)?) => {
        [$(($feature, std::arch::is_x86_feature_detected!($feature))),+]
            .into_iter()
            .filter_map(|(name, found)| (!found).then_some(name))
            .collect::<Vec<&'static str>>()
    };
}

/// An instruction tier, ordered from the portable one upward within each architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// Portable Rust: the definition of every kernel's result.
    Scalar,
    /// AVX2 with FMA and half-precision conversion (every AVX2 processor but one rare VIA has them).
    Avx2,
    /// AVX-512 F/BW/VL/DQ with the byte dot product (VNNI).
    Avx512Vnni,
    /// AMX tiles with byte products, on top of [`Tier::Avx512Vnni`].
    AmxInt8,
    /// Arm NEON with the dot-product extension.
    NeonDot,
    /// The matrix extension for bytes (i8mm), on top of [`Tier::NeonDot`].
    NeonI8mm,
}

impl Tier {
    /// All tiers, in order of preference from lowest to highest.
    pub const ALL: [Self; 6] =
        [Self::Scalar, Self::Avx2, Self::Avx512Vnni, Self::AmxInt8, Self::NeonDot, Self::NeonI8mm];

    /// The name that `--tier` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512vnni",
            Self::AmxInt8 => "amx-int8",
            Self::NeonDot => "neon",
            Self::NeonI8mm => "neon-i8mm",
        }
    }

    /// What this tier needs and this machine lacks: processor features, another architecture, or a permission.
    /// Empty where the tier may run. Asks the hardware, and for AMX the operating system.
    pub fn missing(self) -> Vec<&'static str> {
        match self {
            Self::Scalar => Vec::new(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => lacking!["avx2", "fma", "f16c"],
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                let mut missing = Self::Avx2.missing();
                missing.extend(lacking!["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"]);
                missing
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::AmxInt8 => {
                let mut missing = Self::Avx512Vnni.missing();
                missing.extend(amx::missing());
                missing
            }
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot if std::arch::is_aarch64_feature_detected!("dotprod") => Vec::new(),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => vec!["asimddp"],
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => {
                let mut missing = Self::NeonDot.missing();
                if !std::arch::is_aarch64_feature_detected!("i8mm") {
                    missing.push("i8mm");
                }
                missing
            }
            _ => vec!["another processor architecture or operating system"],
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A tier name that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownTier(pub String);

impl fmt::Display for UnknownTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Tier::ALL.map(Tier::name).join(", ");
        write!(f, "no instruction tier is called '{}'; known: {known}", self.0)
    }
}

impl std::error::Error for UnknownTier {}

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(name: &str) -> Result<Self, UnknownTier> {
        Self::ALL.into_iter().find(|t| t.name() == name).ok_or_else(|| UnknownTier(name.to_owned()))
    }
}

/// The tiers usable in this process; holding one is proof that they may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    usable: [bool; Tier::ALL.len()],
}

impl Cpu {
    /// Probes the processor.
    pub fn detect() -> Self {
        Self { usable: Tier::ALL.map(|t| t.missing().is_empty()) }
    }

    /// The same processor restricted to `ceiling` and below.
    #[must_use]
    pub fn up_to(mut self, ceiling: Tier) -> Self {
        for (usable, tier) in self.usable.iter_mut().zip(Tier::ALL) {
            *usable &= tier <= ceiling;
        }
        self
    }

    /// Whether `tier` may run here.
    pub fn has(&self, tier: Tier) -> bool {
        Tier::ALL.iter().zip(self.usable).any(|(&t, ok)| t == tier && ok)
    }

    /// The highest usable tier.
    pub fn best(&self) -> Tier {
        Tier::ALL.into_iter().rev().find(|&t| self.has(t)).unwrap_or(Tier::Scalar)
    }

    /// The usable tiers, lowest first.
    pub fn tiers(self) -> impl Iterator<Item = Tier> {
        Tier::ALL.into_iter().filter(move |&t| self.has(t))
    }
}

/// A cache near a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NearCache {
    /// The nearest.
    First,
    /// The one behind it.
    Second,
}

/// The cache that lines are to be asked for into, far ahead of their use.
///
/// Measured (docs/speed-log.md): a request for the first cache is the faster one on Intel's Emerald Rapids and on Zen 5. On
/// Zen 4 it takes one of the few places that the first cache has for what it misses, and reads from memory at 0.5 to 0.8 of
/// the speed of a request for the second. Older processors of AMD are taken to be like Zen 4.
#[inline(always)]
pub(crate) fn prefetches_into() -> NearCache {
    match PREFETCHES_INTO.load(Ordering::Relaxed) {
        1 => NearCache::First,
        2 => NearCache::Second,
        _ => ask_which_cache(),
    }
}

/// 1 and 2 for the caches, 0 as long as nobody has asked.
static PREFETCHES_INTO: AtomicU8 = AtomicU8::new(0);

#[cold]
fn ask_which_cache() -> NearCache {
    let cache = if is_zen_up_to_4() { NearCache::Second } else { NearCache::First };
    PREFETCHES_INTO.store(if cache == NearCache::First { 1 } else { 2 }, Ordering::Relaxed);
    cache
}

/// Families 17h to 19h of AMD: Zen to Zen 4; Zen 5 is 1Ah.
#[cfg(target_arch = "x86_64")]
fn is_zen_up_to_4() -> bool {
    let (vendor, version) = (std::arch::x86_64::__cpuid(0), std::arch::x86_64::__cpuid(1).eax);
    let family = (version >> 8 & 0xf) + (version >> 20 & 0xff);
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
    name.as_flattened() == b"AuthenticAMD" && (0x17..=0x19).contains(&family)
}

#[cfg(not(target_arch = "x86_64"))]
fn is_zen_up_to_4() -> bool {
    false
}

/// Rounding to nearest even, no flush to zero, no denormals-are-zero, exceptions masked.
#[derive(Clone, Copy, Debug)]
pub struct FloatEnv;

impl FloatEnv {
    /// Sets this thread's float environment to the one of the bit contract.
    ///
    /// A host program may have switched on flush-to-zero; every worker calls this once before it computes.
    pub fn set() {
        float_control::write(float_control::CONTRACT);
    }

    /// Sets it for as long as what this returns lives, on this thread: for callers whose own environment has to come back.
    pub fn scope() -> FloatScope {
        let before = float_control::read();
        Self::set();
        FloatScope { before, thread: PhantomData }
    }

    /// Whether this thread's float environment is the one of the bit contract.
    pub fn is_set() -> bool {
        float_control::read() & float_control::MASK == float_control::CONTRACT
    }
}

/// The float environment of the bit contract on one thread; dropping it puts back what was there before.
#[derive(Debug)]
pub struct FloatScope {
    before: float_control::Value,
    /// The register is one of this thread.
    thread: PhantomData<*const ()>,
}

impl FloatScope {
    /// Runs `f` in the environment from before the scope.
    pub fn outside<T>(&self, f: impl FnOnce() -> T) -> T {
        /// Goes back into the scope, also where `f` panics.
        struct Inside;
        impl Drop for Inside {
            fn drop(&mut self) {
                FloatEnv::set();
            }
        }
        float_control::write(self.before);
        let _inside = Inside;
        f()
    }
}

impl Drop for FloatScope {
    fn drop(&mut self) {
        float_control::write(self.before);
    }
}

/// The register that says how this thread rounds: MXCSR.
#[cfg(target_arch = "x86_64")]
mod float_control {
    pub(super) type Value = u32;
    /// The power-on value: all exceptions masked, round to nearest, no flag raised.
    pub(super) const CONTRACT: Value = 0x1f80;
    /// All but the flags of exceptions that were raised.
    pub(super) const MASK: Value = 0xffc0;
    /// Flush to zero and denormals are zero.
    #[cfg(test)]
    pub(super) const FLUSH: Value = 0x8040;

    pub(super) fn write(value: Value) {
        // SAFETY: only values that `read` gave or that are made of the constants above come here: no reserved bit is set.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, readonly)) };
    }

    pub(super) fn read() -> Value {
        let mut value: Value = 0;
        // SAFETY: stores the four bytes of MXCSR into a local.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack)) };
        value
    }
}

/// The register that says how this thread rounds: FPCR.
#[cfg(target_arch = "aarch64")]
mod float_control {
    pub(super) type Value = u64;
    /// Round to nearest, no flush to zero, NaNs keep their payload, IEEE halves, exceptions masked: all bits clear.
    pub(super) const CONTRACT: Value = 0;
    pub(super) const MASK: Value = Value::MAX;
    /// Flush to zero.
    #[cfg(test)]
    pub(super) const FLUSH: Value = 1 << 24;

    pub(super) fn write(value: Value) {
        // SAFETY: only values that `read` gave and the constants above come here; the register governs arithmetic alone.
        unsafe { std::arch::asm!("msr fpcr, {}", in(reg) value, options(nostack)) };
    }

    pub(super) fn read() -> Value {
        let value: Value;
        // SAFETY: reads a register that every program may read.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) value, options(nostack)) };
        value
    }
}

/// No register that RIN knows of: what the platform does is taken as it is.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod float_control {
    pub(super) type Value = u32;
    pub(super) const CONTRACT: Value = 0;
    pub(super) const MASK: Value = 0;
    #[cfg(test)]
    pub(super) const FLUSH: Value = 0;

    pub(super) fn write(_: Value) {}

    pub(super) fn read() -> Value {
        0
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    /// What keeps AMX-INT8 from running: the processor's features, then the kernel's grant of the tile state.
    pub(super) fn missing() -> Vec<&'static str> {
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        let features = [("amx_tile", 24), ("amx_int8", 25)];
        let missing: Vec<_> = features.into_iter().filter(|(_, bit)| leaf.edx >> bit & 1 == 0).map(|f| f.0).collect();
        if !missing.is_empty() {
            return missing;
        }
        let rc: i64;
        // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA) changes only this process's
        // permission bits and touches no memory.
        unsafe {
            std::arch::asm!("syscall", inlateout("rax") 158_i64 => rc, in("rdi") 0x1023_i64, in("rsi") 18_i64,
                out("rcx") _, out("r11") _, options(nostack));
        }
        if rc == 0 { Vec::new() } else { vec!["the operating system's permission for AMX tiles"] }
    }
}

#[cfg(test)]
mod tests {
    use super::float_control::{CONTRACT, FLUSH, MASK, read, write};
    use super::{Cpu, FloatEnv, Tier};

    /// `RIN_REQUIRE_TIERS=avx2,amx-int8` turns a missing tier from a skip into a failure.
    #[test]
    fn tiers_required_by_the_environment_are_usable() {
        let required = std::env::var("RIN_REQUIRE_TIERS").unwrap_or_default();
        let cpu = Cpu::detect();
        for tier in Tier::ALL.into_iter().filter(|&t| !cpu.has(t)) {
            eprintln!("SKIPPED: tier {tier} cannot run on this processor; its variants are not tested here");
        }
        for name in required.split(',').filter(|n| !n.is_empty()) {
            let tier: Tier = name.parse().unwrap();
            assert!(cpu.has(tier), "{name} is required here but cannot run");
        }
    }

    #[test]
    fn a_ceiling_removes_the_tiers_above_it() {
        let cpu = Cpu::detect().up_to(Tier::Scalar);
        assert_eq!(cpu.best(), Tier::Scalar);
        assert_eq!(cpu.tiers().count(), 1);
    }

    #[test]
    fn a_tier_runs_where_nothing_is_missing() {
        let cpu = Cpu::detect();
        for t in Tier::ALL {
            assert_eq!(cpu.has(t), t.missing().is_empty(), "{t}");
        }
        assert!(Tier::Scalar.missing().is_empty());
    }

    #[test]
    fn names_parse_back() {
        for t in Tier::ALL {
            assert_eq!(t.name().parse(), Ok(t));
        }
        assert!("sse9".parse::<Tier>().is_err());
    }

    #[test]
    fn the_float_environment_is_restored_from_flush_to_zero() {
        write(CONTRACT | FLUSH);
        let flushed = FLUSH == 0 || !FloatEnv::is_set();
        FloatEnv::set();
        assert!(flushed && FloatEnv::is_set());
        assert!(std::hint::black_box(f32::MIN_POSITIVE) / 2.0 > 0.0);
    }

    #[test]
    fn a_scope_gives_the_environment_back() {
        let host = CONTRACT | FLUSH;
        let as_host = || FLUSH == 0 || read() & MASK == host & MASK;
        write(host);
        let scope = FloatEnv::scope();
        assert!(FloatEnv::is_set());
        assert!(scope.outside(as_host), "the environment of the host");
        assert!(FloatEnv::is_set(), "and inside again");
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scope.outside(|| panic!("in the host"))));
        assert!(panicked.is_err() && FloatEnv::is_set());
        drop(scope);
        let back = as_host();
        FloatEnv::set();
        assert!(back);
    }
}
