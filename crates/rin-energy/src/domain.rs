//! What a sensor covers.

use std::fmt;

/// What a domain covers, by its name and never by its place in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum DomainKind {
    /// A processor package (or one die of it): cores, caches, and what else is on it.
    Package,
    /// The cores of a package; inside [`DomainKind::Package`].
    Core,
    /// What is on the package beside the cores, mostly graphics; inside [`DomainKind::Package`].
    Uncore,
    /// Memory; beside the package.
    Dram,
    /// The whole platform as the processor sees it. What it covers differs between machines.
    Psys,
    /// A whole board or module at its supply.
    Board,
    /// One supply rail of a board.
    Rail,
    /// What a battery gives.
    Battery,
}

impl DomainKind {
    /// Kinds that stand for all that a machine takes, the best first. The domains of one kind are added up, and never
    /// those of two.
    pub const TOTALS: [Self; 4] = [Self::Package, Self::Board, Self::Psys, Self::Battery];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Package => "package",
            Self::Core => "core",
            Self::Uncore => "uncore",
            Self::Dram => "dram",
            Self::Psys => "psys",
            Self::Board => "board",
            Self::Rail => "rail",
            Self::Battery => "battery",
        }
    }
}

/// One domain: a kind and a name that no other domain of the machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Domain {
    /// What it covers.
    pub kind: DomainKind,
    /// `package-0`, `package-0-die-1`, `package-1/dram`, `VDD_IN` …
    pub name: String,
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What a zone calls itself, as the kernel writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZoneName {
    Package { package: u32, die: Option<u32> },
    Part(DomainKind),
}

impl ZoneName {
    /// Reads `package-N`, `package-N-die-M`, `core`, `uncore`, `dram` or `psys`; none for any other name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let kind = match name {
            "core" => DomainKind::Core,
            "uncore" => DomainKind::Uncore,
            "dram" => DomainKind::Dram,
            "psys" => DomainKind::Psys,
            _ => {
                let rest = name.strip_prefix("package-")?;
                let (package, die) = match rest.split_once("-die-") {
                    Some((package, die)) => (package, Some(number(die)?)),
                    None => (rest, None),
                };
                return Some(Self::Package { package: number(package)?, die });
            }
        };
        Some(Self::Part(kind))
    }
}

/// A number in digits alone, without a sign.
fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_known_by_name() {
        let package = |package, die| Some(ZoneName::Package { package, die });
        assert_eq!(ZoneName::parse("package-0"), package(0, None));
        assert_eq!(ZoneName::parse("package-12-die-3"), package(12, Some(3)));
        assert_eq!(ZoneName::parse("dram"), Some(ZoneName::Part(DomainKind::Dram)));
        for other in ["", "package", "package-", "package-x", "package-+1", "package-0-die-", "package-0-die", "gpu"] {
            assert_eq!(ZoneName::parse(other), None, "{other}");
        }
    }
}
