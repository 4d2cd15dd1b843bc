//! `kernel!`: one declaration per operation.

/// One implementation of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant<F> {
    pub(crate) tier: crate::Tier,
    pub(crate) entry: F,
}

/// Declares an operation: its handle type, its variants, and the test that compares each with the first.
///
/// `check` is a function that sees every argument by reference and panics when a length breaks the contract; it is
/// what makes the unsafe entry points sound. `cases` calls its argument with each test case; a case has a method
/// `check(&reference, &candidate)`. The test module of the operation brings `cases` along, so an operation without
/// a test cannot be written down.
macro_rules! kernel {
    (
        $(#[$doc:meta])*
        $vis:vis struct $Op:ident ( $($arg:ident : $ty:ty),* $(,)? );
        check: $check:expr;
        cases: $cases:path;
        conformance: $conformance:ident;
        variants { $( $tier:ident $( if $cfg:meta )? => $path:path ),+ $(,)? }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        $vis struct $Op($crate::table::Variant<unsafe fn($($ty),*)>);

        impl $Op {
            /// Every variant compiled into this build; the first is the definition.
            const VARIANTS: &[$crate::table::Variant<unsafe fn($($ty),*)>] = &[
                $( $(#[cfg($cfg)])? $crate::table::Variant { tier: $crate::Tier::$tier, entry: $path }, )+
            ];

            /// The definition comes first, so a variant is always compared with portable code.
            const _DEFINITION_FIRST: () = assert!(matches!(Self::VARIANTS[0].tier, $crate::Tier::Scalar));

            /// Picks the highest variant that `cpu` can run.
            #[must_use]
            pub fn select(cpu: &$crate::Cpu) -> Self {
                let () = Self::_DEFINITION_FIRST;
                let best = Self::VARIANTS.iter().rev().find(|v| cpu.has(v.tier));
                Self(*best.unwrap_or(&Self::VARIANTS[0]))
            }

            /// The tier this handle runs on.
            #[must_use]
            pub fn tier(&self) -> $crate::Tier { self.0.tier }

            /// Runs the operation.
            ///
            /// # Panics
            ///
            /// When the lengths break the contract on the type.
            #[inline]
            pub fn run(&self, $($arg: $ty),*) {
                ($check)($(&$arg),*);
                // SAFETY: a handle is only built by `select`, which saw this tier on this
                // processor, and the lengths were just checked.
                unsafe { (self.0.entry)($($arg),*) }
            }
        }

        #[cfg(test)]
        mod $conformance {
            use super::*;
            #[test]
            fn every_variant_equals_the_scalar_one_bit_for_bit() {
                let cpu = $crate::Cpu::detect();
                for v in $Op::VARIANTS.iter().filter(|v| cpu.has(v.tier)) {
                    $cases(|case| case.check(&$Op($Op::VARIANTS[0]), &$Op(*v)));
                }
            }
        }
    };
}

/// Compiles one always-inlined body once per tier: `tiers!(fn name(args) = body);` gives a module `name` with
/// `scalar`, `avx2` and `avx512`, to be named in a `kernel!` table. The compiler may vectorise the body; it may
/// neither reassociate nor contract it, so every tier returns the same bits. On aarch64 there is only `scalar`: NEON
/// and the fused multiply-add are part of the baseline there, so it is compiled to them already.
macro_rules! tiers {
    ( fn $name:ident ( $($arg:ident : $ty:ty),* $(,)? ) = $body:path; ) => {
        mod $name {
            use super::*;
            pub(super) fn scalar($($arg: $ty),*) { $body($($arg),*); }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) fn avx2($($arg: $ty),*) { $body($($arg),*); }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
            pub(super) fn avx512($($arg: $ty),*) { $body($($arg),*); }
        }
    };
}
