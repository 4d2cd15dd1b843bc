//! The share of what is left at which leaving the rest out stops to pay.

/// Where a rising time passes that of the dense product.
#[derive(Debug, PartialEq)]
pub(super) enum Crossover {
    /// It is longer at the least share already.
    Never,
    /// At this share, linearly between measured ones.
    At(f64),
    /// It is shorter at the largest share, too.
    Always,
}

/// Of points by ascending share, each with its time.
pub(super) fn crossover(points: &[(f64, f64)], dense: f64) -> Crossover {
    match points.iter().position(|(_, us)| *us >= dense) {
        Some(0) => Crossover::Never,
        None => Crossover::Always,
        Some(after) => {
            let ((a, before), (b, later)) = (points[after - 1], points[after]);
            Crossover::At(a + (b - a) * (dense - before) / (later - before))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Crossover, crossover};

    #[test]
    fn a_crossover_lies_between_the_shares_around_it() {
        let points = [(5.0, 1.0), (10.0, 2.0), (20.0, 6.0)];
        assert_eq!(crossover(&points, 0.5), Crossover::Never);
        assert_eq!(crossover(&points, 4.0), Crossover::At(15.0));
        assert_eq!(crossover(&points, 2.0), Crossover::At(10.0));
        assert_eq!(crossover(&points, 7.0), Crossover::Always);
    }
}
