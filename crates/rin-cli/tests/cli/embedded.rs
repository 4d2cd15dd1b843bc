//! The model inside the binary.

use crate::failures::fails;
use crate::program::{Place, json, output, stdout};

#[test]
fn it_runs_without_a_file() {
    let place = Place::new();
    let text = stdout(&output(place.rin(&["run", "-q", "-p", "ROMEO:", "-n", "80"])));
    assert!(text.len() >= 80, "{text:?}");
    let found = json(&output(place.rin(&["inspect", "--json", "--plan"])));
    assert_eq!(found["model"]["name"], "rin-shakespeare");
    assert_eq!(found["model"]["format"], "rin");
    assert_eq!(found["problems"], serde_json::json!([]), "its checksum fits");
    assert_eq!(found["plan"]["fits"], true);
    assert!(found["model"]["file_bytes"].as_u64().unwrap() <= 4_000_000);
    let ids = json(&output(place.rin(&["tokens", "-p", "ROMEO:", "--json"])));
    assert!(ids["tokens"].as_array().unwrap().len() >= 6);
}

#[test]
fn it_is_the_same_bits_in_every_way() {
    let place = Place::new();
    let arguments = ["verify", "--json", "-q", "--threads", "2", "-n", "4", "--tokens", "1,2,3,4,5,6,7,8,9"];
    let found = json(&output(place.rin(&arguments)));
    assert_eq!(found["equal"], found["cases"]);
    fails(place.rin(&["run", "-p", "a", "--tokens", "1"]), 2, &["exclude each other"]);
}
