//! What this processor can run, and the float environment that the bit contract asks for.
//!
//! The only place that asks the hardware.

use std::fmt;
use std::str::FromStr;

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
}

impl Tier {
    /// All tiers, in order of preference from lowest to highest.
    pub const ALL: [Self; 5] = [Self::Scalar, Self::Avx2, Self::Avx512Vnni, Self::AmxInt8, Self::NeonDot];

    /// The name that `--tier` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512vnni",
            Self::AmxInt8 => "amx-int8",
            Self::NeonDot => "neon",
        }
    }

    /// Asks the hardware, and for AMX the operating system, whether this tier may run.
    fn probe(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                Self::Avx2.probe()
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::AmxInt8 => Self::Avx512Vnni.probe() && amx::permitted(),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            _ => false,
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
        Self { usable: Tier::ALL.map(Tier::probe) }
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

/// Rounding to nearest even, no flush to zero, no denormals-are-zero, exceptions masked.
#[derive(Clone, Copy, Debug)]
pub struct FloatEnv;

impl FloatEnv {
    /// Sets this thread's float environment to the one of the bit contract.
    ///
    /// A host program may have switched on flush-to-zero; every worker calls this once before it computes.
    pub fn set() {
        #[cfg(target_arch = "x86_64")]
        {
            const DEFAULT_MXCSR: u32 = 0x1f80;
            let value = DEFAULT_MXCSR;
            // SAFETY: 0x1f80 is the power-on value: all exceptions masked, round to nearest, no reserved bit set.
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, readonly)) };
        }
    }

    /// Whether this thread's float environment is the one of the bit contract.
    pub fn is_set() -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            const CONTROL_BITS: u32 = 0xffc0;
            let mut value = 0_u32;
            // SAFETY: stores the four bytes of MXCSR into a local.
            unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack)) };
            value & CONTROL_BITS == 0x1f80
        }
        #[cfg(not(target_arch = "x86_64"))]
        true
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    /// CPUID advertises AMX-INT8 and the kernel grants the tile state to this process.
    pub(super) fn permitted() -> bool {
        const TILE_AND_INT8: u32 = (1 << 24) | (1 << 25);
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        if leaf.edx & TILE_AND_INT8 != TILE_AND_INT8 {
            return false;
        }
        let rc: i64;
        // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA) changes only this process's
        // permission bits and touches no memory.
        unsafe {
            std::arch::asm!("syscall", inlateout("rax") 158_i64 => rc, in("rdi") 0x1023_i64, in("rsi") 18_i64,
                out("rcx") _, out("r11") _, options(nostack));
        }
        rc == 0
    }
}

#[cfg(test)]
mod tests {
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
    fn names_parse_back() {
        for t in Tier::ALL {
            assert_eq!(t.name().parse(), Ok(t));
        }
        assert!("sse9".parse::<Tier>().is_err());
    }

    #[test]
    fn the_float_environment_is_restored_from_flush_to_zero() {
        FloatEnv::set();
        assert!(FloatEnv::is_set());
    }
}
