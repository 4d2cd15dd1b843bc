//! Clouds of points from files.

use super::Distances;
use crate::Error;

/// Numbers separated by commas and spaces.
fn numbers(text: &str) -> Result<Vec<f64>, Error> {
    let words = text.split([',', ' ', '\n', '\r', '\t']).filter(|word| !word.is_empty());
    words.map(|word| word.parse().map_err(|_| Error::input("distances", format!("{word:?} is no number")))).collect()
}

/// The triangle of distances below the diagonal, as Ripser reads it.
///
/// # Errors
/// [`Error::Input`] where it is no triangle of distances.
pub fn lower_distances(text: &str) -> Result<Distances, Error> {
    let lower = numbers(text)?;
    // n (n − 1) / 2 = length; the square root is exact for what fits into memory.
    let n = f64::midpoint(1.0, (1.0 + 8.0 * lower.len() as f64).sqrt()).round() as usize;
    Distances::from_lower(n, &lower)
}

/// The points of an OFF file (Geomview), whatever their number of coordinates: the rows, and their width.
///
/// # Errors
/// [`Error::Input`] where it is none.
pub fn off(text: &str) -> Result<(Vec<f64>, usize), Error> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let magic = lines.next().unwrap_or_default().trim();
    if !magic.ends_with("OFF") {
        return Err(Error::input("OFF file", format!("it begins with {magic:?}")));
    }
    let n = numbers(lines.next().unwrap_or_default())?.first().copied().unwrap_or(0.0) as usize;
    let mut points = Vec::new();
    let mut width = 0;
    let mut rows = 0;
    for line in lines.take(n) {
        let row = numbers(line)?;
        if rows > 0 && row.len() != width {
            return Err(Error::input("OFF file", format!("rows of {width} and of {} numbers", row.len())));
        }
        width = row.len();
        rows += 1;
        points.extend(row);
    }
    if rows != n || width == 0 {
        return Err(Error::input("OFF file", format!("{rows} of {n} points")));
    }
    Ok((points, width))
}
