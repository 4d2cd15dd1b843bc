//! Persistent cohomology of the Vietoris–Rips complex over the field of two elements.
//!
//! A set of points is a simplex at the scale of its longest edge. The bars of dimension k pair the simplex of dimension k
//! that brings a feature with the one of dimension k + 1 that fills it. Columns of the coboundary matrix are reduced
//! from the latest simplex to the earliest, with clearing and apparent pairs; nothing of the matrix is stored but which
//! columns were added to which.
//!
//! Source: U. Bauer, "Ripser: efficient computation of Vietoris–Rips persistence barcodes", Journal of Applied and
//! Computational Topology 5, 2021.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use super::{Bar, Distances};
use crate::Error;

/// The highest dimension of features.
const MAX_DIMENSION: usize = 2;
/// Vertices of the largest simplex that is looked at: it fills a feature of the highest dimension.
const VERTICES: usize = MAX_DIMENSION + 2;

/// A simplex: its scale, and its place in the combinatorial number system.
#[derive(Clone, Copy, Debug)]
struct Simplex {
    diameter: f64,
    index: u64,
}

/// The greatest is the earliest in the filtration: the smallest scale, and of equal scales the largest index.
impl Ord for Simplex {
    fn cmp(&self, other: &Self) -> Ordering {
        other.diameter.total_cmp(&self.diameter).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Simplex {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Simplex {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl Eq for Simplex {}

/// A hash for indices that are spread already: one multiplication.
#[derive(Default)]
struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, x: u64) {
        self.0 = (self.0 ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }
}

type Pivots = HashMap<u64, usize, BuildHasherDefault<IndexHasher>>;

/// The bars of dimensions 0 to `dimension`, of positive length, up to a scale; by default as far as there are any.
///
/// Each list is in no particular order. The time grows with the number of simplices: for n points n² / 2 in dimension 0,
/// n³ / 6 in dimension 1, n⁴ / 24 in dimension 2.
///
/// # Errors
/// [`Error::Input`] for a dimension above 2.
pub fn persistence(distances: &Distances, dimension: usize, threshold: Option<f64>) -> Result<Vec<Vec<Bar>>, Error> {
    if dimension > MAX_DIMENSION {
        return Err(Error::input("dimension", format!("{dimension} is above {MAX_DIMENSION}")));
    }
    let mut bars = vec![Vec::new(); dimension + 1];
    if distances.is_empty() {
        return Ok(bars);
    }
    let complex = Complex::new(distances, threshold.unwrap_or_else(|| distances.enclosing_radius()));
    let edges = complex.edges();
    let (components, mut columns) = complex.components(&edges);
    bars[0] = components;
    columns.retain(|edge| !complex.is_apparent(*edge, 1));
    for k in 1..=dimension {
        columns.sort_unstable();
        let (found, pivots) = complex.reduce(&columns, k);
        bars[k] = found;
        if k < dimension {
            columns = complex.next_columns(&edges, &pivots);
        }
    }
    Ok(bars)
}

struct Complex<'a> {
    distances: &'a Distances,
    threshold: f64,
    /// `binomials[v][k]` = v choose k.
    binomials: Vec<[u64; VERTICES + 1]>,
}

impl<'a> Complex<'a> {
    fn new(distances: &'a Distances, threshold: f64) -> Self {
        let mut binomials = vec![[0; VERTICES + 1]; distances.len() + 1];
        for v in 0..binomials.len() {
            binomials[v][0] = 1;
            if v > 0 {
                for k in 1..=VERTICES {
                    binomials[v][k] = binomials[v - 1][k - 1] + binomials[v - 1][k];
                }
            }
        }
        Self { distances, threshold, binomials }
    }

    /// Edges up to the threshold, the earliest last.
    fn edges(&self) -> Vec<Simplex> {
        let mut edges = Vec::new();
        for i in 0..self.distances.len() {
            for (j, &diameter) in self.distances.row(i).iter().enumerate().take(i) {
                if diameter <= self.threshold {
                    edges.push(Simplex { diameter, index: self.binomials[i][2] + j as u64 });
                }
            }
        }
        edges.sort_unstable();
        edges
    }

    /// The bars of components, and the edges that join none.
    fn components(&self, edges: &[Simplex]) -> (Vec<Bar>, Vec<Simplex>) {
        let n = self.distances.len();
        let mut parent: Vec<usize> = (0..n).collect();
        let mut root = |mut x: usize, set: Option<usize>| {
            while parent[x] != x {
                parent[x] = parent[parent[x]];
                x = parent[x];
            }
            if let Some(to) = set {
                parent[x] = to;
            }
            x
        };
        let (mut bars, mut loops, mut left) = (Vec::new(), Vec::new(), n);
        for edge in edges.iter().rev() {
            let vertices = self.vertices(edge.index, 2);
            let (a, b) = (root(vertices[0], None), root(vertices[1], None));
            if a == b {
                loops.push(*edge);
                continue;
            }
            root(a, Some(b));
            left -= 1;
            if edge.diameter > 0.0 {
                bars.push(Bar { birth: 0.0, death: edge.diameter });
            }
        }
        bars.extend(std::iter::repeat_n(Bar { birth: 0.0, death: f64::INFINITY }, left));
        (bars, loops)
    }

    /// The vertices of a simplex of `count` vertices, the largest first.
    fn vertices(&self, mut index: u64, count: usize) -> [usize; VERTICES] {
        let mut vertices = [0; VERTICES];
        let mut below = self.distances.len();
        for (at, k) in (1..=count).rev().enumerate() {
            let v = self.binomials[..below].partition_point(|row| row[k] <= index) - 1;
            index -= self.binomials[v][k];
            vertices[at] = v;
            below = v;
        }
        vertices
    }

    /// The simplices with one vertex more, the largest index first; with `above`, only those whose new vertex is above all
    /// others.
    fn cofacets(&self, simplex: Simplex, dimension: usize, above: bool) -> Cofacets<'_> {
        let vertices = self.vertices(simplex.index, dimension + 1);
        let mut rows = [[].as_slice(); VERTICES - 1];
        for (row, vertex) in rows.iter_mut().zip(&vertices[..=dimension]) {
            *row = self.distances.row(*vertex);
        }
        Cofacets {
            binomials: &self.binomials,
            rows,
            count: dimension + 1,
            diameter: simplex.diameter,
            above_only: above,
            left: self.distances.len(),
            k: dimension + 1,
            below: simplex.index,
            above: 0,
        }
    }

    /// The facet without the largest vertex of those that have the simplex's own scale.
    fn facet_of_equal_scale(&self, simplex: Simplex, dimension: usize) -> Option<Simplex> {
        let vertices = self.vertices(simplex.index, dimension + 1);
        let (mut above, mut below) = (0, simplex.index);
        for left_out in 0..=dimension {
            let k = dimension - left_out;
            let v = vertices[left_out];
            below -= self.binomials[v][k + 1];
            let mut diameter = 0.0_f64;
            for (i, a) in vertices[..=dimension].iter().enumerate().filter(|(i, _)| *i != left_out) {
                for (_, b) in vertices[..i].iter().enumerate().filter(|(j, _)| *j != left_out) {
                    diameter = diameter.max(self.distances.get(*a, *b));
                }
            }
            if diameter >= simplex.diameter {
                return Some(Simplex { diameter, index: above + below });
            }
            above += self.binomials[v][k];
        }
        None
    }

    fn cofacet_of_equal_scale(&self, simplex: Simplex, dimension: usize) -> Option<Simplex> {
        self.cofacets(simplex, dimension, false).find(|cofacet| cofacet.diameter <= simplex.diameter)
    }

    /// The facet that the simplex fills at once, where the pair can be seen without a reduction.
    fn apparent_facet(&self, simplex: Simplex, dimension: usize) -> Option<Simplex> {
        let facet = self.facet_of_equal_scale(simplex, dimension)?;
        (self.cofacet_of_equal_scale(facet, dimension - 1)? == simplex).then_some(facet)
    }

    /// Whether the simplex is one of a pair of no length that can be seen without a reduction.
    fn is_apparent(&self, simplex: Simplex, dimension: usize) -> bool {
        let cofacet = self.cofacet_of_equal_scale(simplex, dimension);
        let filled = cofacet.and_then(|cofacet| self.facet_of_equal_scale(cofacet, dimension + 1)) == Some(simplex);
        filled || (dimension > 1 && self.apparent_facet(simplex, dimension).is_some())
    }

    /// Triangles that may bring a void: neither apparent nor the end of a loop.
    fn next_columns(&self, edges: &[Simplex], pivots: &Pivots) -> Vec<Simplex> {
        let mut columns = Vec::new();
        for edge in edges {
            for triangle in self.cofacets(*edge, 1, true) {
                let kept = triangle.diameter <= self.threshold
                    && !pivots.contains_key(&triangle.index)
                    && !self.is_apparent(triangle, 2);
                if kept {
                    columns.push(triangle);
                }
            }
        }
        columns
    }

    /// Reduces the coboundaries of columns in ascending order, that is from the latest to the earliest.
    fn reduce(&self, columns: &[Simplex], dimension: usize) -> (Vec<Bar>, Pivots) {
        let mut bars = Vec::new();
        let mut pivots = Pivots::default();
        // For each reduced column, which simplices' coboundaries were added to its own.
        let mut added: Vec<Vec<Simplex>> = Vec::with_capacity(columns.len());
        let mut coboundary = BinaryHeap::new();
        let mut sum = BinaryHeap::new();
        let mut first = Vec::new();
        for (at, column) in columns.iter().enumerate() {
            coboundary.clear();
            sum.clear();
            let mut pivot = self.first_pivot(*column, dimension, &pivots, &mut coboundary, &mut first);
            loop {
                let Some(found) = pivot else {
                    bars.push(Bar { birth: column.diameter, death: f64::INFINITY });
                    added.push(Vec::new());
                    break;
                };
                let mut add = |simplex: Simplex| {
                    sum.push(simplex);
                    let cofacets = self.cofacets(simplex, dimension, false);
                    coboundary.extend(cofacets.filter(|cofacet| cofacet.diameter <= self.threshold));
                };
                if let Some(&other) = pivots.get(&found.index) {
                    add(columns[other]);
                    added[other].iter().for_each(|simplex| add(*simplex));
                } else if let Some(facet) = self.apparent_facet(found, dimension + 1) {
                    add(facet);
                } else {
                    if found.diameter > column.diameter {
                        bars.push(Bar { birth: column.diameter, death: found.diameter });
                    }
                    pivots.insert(found.index, at);
                    added.push(std::iter::from_fn(|| pop(&mut sum)).collect());
                    break;
                }
                pivot = peek(&mut coboundary);
            }
        }
        (bars, pivots)
    }

    /// The earliest simplex of a column's coboundary. Where it has the column's own scale and nobody claims it, the rest of
    /// the coboundary is not even made.
    fn first_pivot(
        &self,
        column: Simplex,
        dimension: usize,
        pivots: &Pivots,
        coboundary: &mut BinaryHeap<Simplex>,
        cofacets: &mut Vec<Simplex>,
    ) -> Option<Simplex> {
        cofacets.clear();
        let mut may_be_emergent = true;
        for cofacet in self.cofacets(column, dimension, false) {
            if cofacet.diameter > self.threshold {
                continue;
            }
            if may_be_emergent && cofacet.diameter <= column.diameter {
                let free =
                    !pivots.contains_key(&cofacet.index) && self.apparent_facet(cofacet, dimension + 1).is_none();
                if free {
                    return Some(cofacet);
                }
                may_be_emergent = false;
            }
            cofacets.push(cofacet);
        }
        coboundary.extend(cofacets.drain(..));
        peek(coboundary)
    }
}

/// Takes the earliest simplex that is there an odd number of times.
fn pop(heap: &mut BinaryHeap<Simplex>) -> Option<Simplex> {
    while let Some(top) = heap.pop() {
        if heap.peek() == Some(&top) {
            heap.pop();
        } else {
            return Some(top);
        }
    }
    None
}

fn peek(heap: &mut BinaryHeap<Simplex>) -> Option<Simplex> {
    let top = pop(heap)?;
    heap.push(top);
    Some(top)
}

/// Goes through the simplices with one vertex more.
struct Cofacets<'a> {
    binomials: &'a [[u64; VERTICES + 1]],
    rows: [&'a [f64]; VERTICES - 1],
    count: usize,
    diameter: f64,
    above_only: bool,
    /// Vertices not tried yet: those below this.
    left: usize,
    /// Vertices of the simplex among them.
    k: usize,
    below: u64,
    above: u64,
}

impl Iterator for Cofacets<'_> {
    type Item = Simplex;

    fn next(&mut self) -> Option<Simplex> {
        loop {
            if self.left <= self.k {
                return None;
            }
            let row = &self.binomials[self.left - 1];
            if row[self.k] > self.below {
                break;
            }
            if self.above_only {
                return None;
            }
            // The vertex is one of the simplex's own.
            self.below -= row[self.k];
            self.above += row[self.k + 1];
            self.left -= 1;
            self.k -= 1;
        }
        self.left -= 1;
        let v = self.left;
        let index = self.above + self.binomials[v][self.k + 1] + self.below;
        let diameter = self.rows[..self.count].iter().fold(self.diameter, |most, row| most.max(row[v]));
        Some(Simplex { diameter, index })
    }
}
