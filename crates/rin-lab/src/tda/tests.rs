//! Against GUDHI, Ripser and persim, and against the definition.

use rin_testkit::data::{conformance, shared};
use serde_json::Value;

use super::*;
use crate::random::Random;

fn goldens() -> Value {
    serde_json::from_str(&std::fs::read_to_string(conformance("lab/tda.json")).unwrap()).unwrap()
}

fn bars(value: &Value) -> Vec<Bar> {
    let number = |x: &Value| x.as_f64().unwrap_or(f64::INFINITY);
    value.as_array().unwrap().iter().map(|bar| Bar { birth: number(&bar[0]), death: number(&bar[1]) }).collect()
}

fn cloud(value: &Value) -> Distances {
    let rows = value.as_array().unwrap();
    let points: Vec<f64> =
        rows.iter().flat_map(|row| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap())).collect();
    Distances::euclidean(&points, rows[0].as_array().unwrap().len()).unwrap()
}

fn sorted(mut bars: Vec<Bar>) -> Vec<Bar> {
    bars.sort_by(|a, b| a.birth.total_cmp(&b.birth).then(a.death.total_cmp(&b.death)));
    bars
}

/// Equal as multisets, within 1e-6 of each value.
fn same(name: &str, found: Vec<Bar>, expected: Vec<Bar>) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let close = |x: f64, y: f64| (x.is_infinite() && y.is_infinite()) || (x - y).abs() <= 1e-6 * y.abs();
    for (found, expected) in sorted(found).iter().zip(&sorted(expected)) {
        assert!(
            close(found.birth, expected.birth) && close(found.death, expected.death),
            "{name}: {found:?} {expected:?}"
        );
    }
}

#[test]
fn bars_are_those_of_gudhi_and_ripser() {
    let mut clouds = 0;
    for case in goldens()["barcodes"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let distances = match case["file"].as_str() {
            None => cloud(&case["points"]),
            Some(file) => {
                let Some(path) = shared(&format!("tda/{file}")) else { continue };
                let text = std::fs::read_to_string(path).unwrap();
                if std::path::Path::new(file).extension().is_some_and(|end| end == "off") {
                    let (points, width) = read::off(&text).unwrap();
                    Distances::euclidean(&points, width).unwrap()
                } else {
                    read::lower_distances(&text).unwrap()
                }
            }
        };
        let dimension = usize::try_from(case["dimension"].as_u64().unwrap()).unwrap();
        let found = persistence(&distances, dimension, case["threshold"].as_f64()).unwrap();
        for (k, found) in found.into_iter().enumerate() {
            same(&format!("{name}, H{k}"), found, bars(&case["bars"][k]));
        }
        clouds += 1;
    }
    assert!(clouds >= 12);
}

#[test]
fn distances_of_diagrams_are_those_of_gudhi() {
    for (i, pair) in goldens()["distances"].as_array().unwrap().iter().enumerate() {
        let (a, b) = (bars(&pair["a"]), bars(&pair["b"]));
        let expected = pair["bottleneck"].as_f64().unwrap();
        let found = bottleneck(&a, &b).unwrap();
        assert!((found - expected).abs() < 1e-9, "{i}: {found} {expected}");
        assert!((bottleneck(&b, &a).unwrap() - found).abs() < 1e-12);
        for (name, ground) in [("max", Ground::Max), ("euclidean", Ground::Euclidean)] {
            for order in [1.0, 2.0] {
                let expected = pair["wasserstein"][format!("{name} {order}")].as_f64().unwrap();
                let found = wasserstein(&a, &b, order, ground).unwrap();
                assert!(
                    (found - expected).abs() < 1e-6 * expected.max(1e-3),
                    "{i}, {name} {order}: {found} {expected}"
                );
            }
        }
    }
    let bar = |birth, death| Bar { birth, death };
    assert!(bottleneck(&[bar(0.0, f64::INFINITY)], &[]).unwrap().is_infinite());
    assert!(wasserstein(&[bar(0.0, f64::INFINITY)], &[], 1.0, Ground::Max).unwrap().is_infinite());
    assert!(wasserstein(&[], &[], 0.5, Ground::Max).is_err() && bottleneck(&[bar(1.0, 0.5)], &[]).is_err());
}

#[test]
fn the_divergence_is_that_of_its_authors_recipe() {
    for case in goldens()["rtd"].as_array().unwrap() {
        let (a, b) = (cloud(&case["a"]), cloud(&case["b"]));
        let (found, expected) = (rtd(&a, &b).unwrap(), case["rtd"].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-6 * expected.max(1e-3), "{found} {expected}");
        assert!(rtd(&a, &a).unwrap() < 1e-12);
    }
    let one = Distances::euclidean(&[0.0, 1.0], 1).unwrap();
    let two = Distances::euclidean(&[0.0, 1.0, 3.0], 1).unwrap();
    assert!(rtd(&one, &two).is_err());
    assert!(rtd(&Distances::euclidean(&[1.0, 1.0], 1).unwrap(), &one).is_err());
}

/// Known spaces: what the seed's formula has wrong.
#[test]
fn known_spaces_have_their_betti_numbers() {
    let at = |points: &[f64], width: usize, scale: f64| {
        let found = persistence(&Distances::euclidean(points, width).unwrap(), 2, None).unwrap();
        [0, 1, 2].map(|k| betti(&found[k], scale))
    };
    let triangle = [0.0, 0.0, 1.0, 0.0, 0.5, 0.8];
    assert_eq!(at(&triangle, 2, 1.1), [1, 0, 0]);
    let clusters = [0.0, 0.0, 0.1, 0.0, 0.0, 0.1, 5.0, 5.0, 5.1, 5.0];
    assert_eq!(at(&clusters, 2, 1.0), [2, 0, 0]);
    let octahedron = [1., 0., 0., -1., 0., 0., 0., 1., 0., 0., -1., 0., 0., 0., 1., 0., 0., -1.];
    assert_eq!(at(&octahedron, 3, 1.5), [1, 0, 1]);
    let circle: Vec<f64> = (0..8)
        .flat_map(|i| {
            let angle = f64::from(i) * std::f64::consts::PI / 4.0;
            [libm::cos(angle), libm::sin(angle)]
        })
        .collect();
    assert_eq!(at(&circle, 2, 0.5), [8, 0, 0]);
    assert_eq!(at(&circle, 2, 0.8), [1, 1, 0]);
}

/// Ranks of boundary matrices over two elements at a scale, by elimination of whole matrices.
fn betti_by_ranks(distances: &Distances, scale: f64) -> [usize; 2] {
    let n = distances.len();
    let near = |i: usize, j: usize| distances.get(i, j) <= scale;
    let edges: Vec<(usize, usize)> =
        (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).filter(|(i, j)| near(*i, *j)).collect();
    let mut triangles = Vec::new();
    for &(i, j) in &edges {
        triangles.extend((0..j).filter(|k| near(i, *k) && near(j, *k)).map(|k| [(i, j), (i, k), (j, k)]));
    }
    let rank = |mut rows: Vec<u128>| {
        let mut rank = 0;
        for bit in 0..128 {
            let Some(at) = (rank..rows.len()).find(|at| rows[*at] >> bit & 1 == 1) else { continue };
            rows.swap(rank, at);
            let pivot = rows[rank];
            for row in rows.iter_mut().skip(rank + 1).filter(|row| **row >> bit & 1 == 1) {
                *row ^= pivot;
            }
            rank += 1;
        }
        rank
    };
    let of_edges = rank(edges.iter().map(|(i, j)| 1 << i | 1 << j).collect());
    let place = |edge: &(usize, usize)| edges.iter().position(|e| e == edge).unwrap();
    let of_triangles =
        rank(triangles.iter().map(|t| t.iter().fold(0, |row, edge| row | 1_u128 << place(edge))).collect());
    [n - of_edges, edges.len() - of_edges - of_triangles]
}

#[test]
fn betti_numbers_are_ranks_of_boundary_matrices() {
    for seed in 0..40 {
        let mut random = Random::new(seed, 1);
        let n = 6 + random.below(9);
        // Few different distances: many ties.
        let lower: Vec<f64> = (0..n * (n - 1) / 2).map(|_| (random.below(6) as f64) + 1.0).collect();
        let distances = Distances::from_lower(n, &lower).unwrap();
        let found = persistence(&distances, 1, Some(100.0)).unwrap();
        for scale in [0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0] {
            assert_eq!(
                [0, 1].map(|k| betti(&found[k], scale)),
                betti_by_ranks(&distances, scale),
                "seed {seed}, scale {scale}"
            );
        }
    }
}

#[test]
fn bad_input_is_an_error() {
    assert!(Distances::from_lower(3, &[1.0, 2.0]).is_err());
    assert!(Distances::from_lower(2, &[f64::NAN]).is_err() && Distances::from_lower(2, &[-1.0]).is_err());
    assert!(Distances::euclidean(&[1.0; 5], 2).is_err() && Distances::euclidean(&[], 0).is_err());
    assert!(Distances::from_lower(10_000, &[]).is_err());
    assert!(persistence(&Distances::from_lower(2, &[1.0]).unwrap(), 3, None).is_err());
    assert_eq!(persistence(&Distances::from_lower(0, &[]).unwrap(), 1, None).unwrap(), vec![vec![], vec![]]);
    assert!(
        read::off("OFF\n2 0 0\n1 2\n").is_err() && read::off("PLY\n").is_err() && read::off("OFF\n1 0 0\nx\n").is_err()
    );
    assert!(read::lower_distances("1, 2").is_err());
}

/// The bars that GUDHI publishes of a torus of 1,307 points, with 6 digits. The scale up to which they were computed is not
/// told; the last value is 0.138335, the void's birth.
#[test]
fn bars_of_a_published_torus_are_those_of_gudhi() {
    let (Some(points), Some(published)) = (shared("tda/tore3D_1307.off"), shared("tda/rips_on_tore3D_1307.pers"))
    else {
        return;
    };
    let (points, width) = read::off(&std::fs::read_to_string(points).unwrap()).unwrap();
    let found = persistence(&Distances::euclidean(&points, width).unwrap(), 2, Some(0.138_336)).unwrap();
    let mut expected = vec![Vec::new(); 3];
    for line in std::fs::read_to_string(published).unwrap().lines() {
        let mut words = line.split_whitespace();
        let dimension: usize = words.next().unwrap().parse().unwrap();
        let [birth, death] = [words.next(), words.next()].map(|word| word.unwrap().parse().unwrap());
        expected[dimension].push(Bar { birth, death });
    }
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1307, 736, 1]);
    // Rounded births may change the order of bars, so ends and lengths are compared by themselves.
    let parts: [fn(&Bar) -> f64; 3] = [|bar| bar.birth, |bar| bar.death, |bar| bar.death - bar.birth];
    for (dimension, (found, expected)) in found.iter().zip(&expected).enumerate() {
        for part in parts {
            let [found, expected] = [found, expected].map(|bars| {
                let mut all: Vec<f64> = bars.iter().map(part).collect();
                all.sort_by(f64::total_cmp);
                all
            });
            assert_eq!(found.len(), expected.len(), "dimension {dimension}");
            for (a, b) in found.iter().zip(&expected) {
                assert!(
                    (a.is_infinite() && b.is_infinite()) || (a - b).abs() < 1.1e-6,
                    "dimension {dimension}: {a} {b}"
                );
            }
        }
    }
}
