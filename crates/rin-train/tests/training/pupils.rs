//! Students that are trained side by side.

use super::{Folder, finish};
use rin_kernels::Format;
use rin_train::config::{DistillConfig, HintLayers, Hints, TrainConfig};
use rin_train::train::{Budget, Course, Kept, Pupil, PupilConfig};
use rin_train::{Error, RunOptions};
use std::path::Path;
use std::time::Duration;

const SLICE: Duration = Duration::from_millis(1);

/// The course of a teacher of two layers that knows the text.
fn course(folder: &Folder) -> Course {
    let teacher =
        folder.toml("teacher", "tokenizer = 'char'", "steps = 80\nlr = 0.01").replace("layers = 1", "layers = 2");
    finish(TrainConfig::parse(&teacher, Path::new("t.toml")).unwrap(), RunOptions::default());
    let kept = Kept { depths: vec![1], attention: true };
    let mut course = Course::new(&folder.file("text.txt"), &folder.file("teacher.rin"), 16, 5, kept).unwrap();
    course.fill().unwrap();
    course
}

fn config(folder: &Folder, budget: Budget, distill: Option<DistillConfig>) -> PupilConfig {
    let model = folder.config("tokenizer = 'char'", "steps = 1").model;
    PupilConfig { model, batch: 4, lr: 0.01, seed: 1, budget, distill, pays_teacher: false }
}

fn taught(course: &Course, config: PupilConfig) -> Pupil {
    let mut pupil = Pupil::new(config, course).unwrap();
    while pupil.work(course, SLICE).unwrap() {}
    pupil
}

#[test]
fn a_student_learns_for_its_budget() {
    let folder = Folder::new("pupils");
    let course = course(&folder);
    let plain = DistillConfig { weight: 1.0, ..DistillConfig::plain("nobody".into()) };
    let loss = |budget, distill| taught(&course, config(&folder, budget, distill)).evaluate(&course).unwrap();
    let first = loss(Budget::Steps(1), None).nats_per_char;
    // The text has 24 symbols: 3.2 nats.
    assert!(first > 2.8, "{first}");
    let text = loss(Budget::Steps(40), None);
    assert!(text.nats_per_char < 2.6, "{}", text.nats_per_char);
    let no_word = loss(Budget::Steps(40), Some(DistillConfig { weight: 0.0, ..plain.clone() }));
    assert_eq!(text.losses, no_word.losses, "a share of 0 changes no bit");
    for hints in [Hints::None, Hints::Hidden, Hints::Attention, Hints::Both, Hints::Relations] {
        for hint_layers in [HintLayers::Uniform, HintLayers::Reversed] {
            let found = loss(Budget::Steps(40), Some(DistillConfig { hints, hint_layers, ..plain.clone() }));
            // The text is not seen: what is learned of it comes from the teacher.
            assert!(found.nats_per_char < 2.9 && found.losses != text.losses, "{hints:?}: {}", found.nats_per_char);
        }
    }
    let exact = taught(&course, config(&folder, Budget::Steps(7), None));
    assert_eq!(exact.steps(), 7);
    let timed = taught(&course, config(&folder, Budget::Time(3 * SLICE), None));
    assert!(timed.steps() > 0 && timed.spent() >= 3 * SLICE);
    let ids = &course.validation()[..32];
    let [float, narrow] = [None, Some(Format::Q4_0)].map(|format| exact.seen(&course, ids, format).unwrap());
    assert_eq!((float.logits.len(), float.hidden.len()), (32 * float.vocab, 32 * 32));
    assert!(float.logits != narrow.logits && float.hidden != narrow.hidden);
}

#[test]
fn a_student_that_pays_pays_for_each_window_once() {
    let folder = Folder::new("pays");
    let course = course(&folder);
    let pays = |steps, pays_teacher| {
        let distill = Some(DistillConfig::plain("nobody".into()));
        taught(&course, PupilConfig { pays_teacher, ..config(&folder, Budget::Steps(steps), distill) })
    };
    let price = course.time_of_answer();
    // Thirty-two windows, four a step: after two hundred steps all were seen.
    assert_eq!(pays(200, true).paid(), price * 32);
    let one = pays(1, true);
    assert!(price <= one.paid() && one.paid() <= price * 4 && one.paid() < one.spent());
    assert_eq!(pays(200, false).paid(), Duration::ZERO);
}

#[test]
fn what_cannot_be_taught_is_refused() {
    let folder = Folder::new("unfit");
    let course = course(&folder);
    let of = |distill: DistillConfig| Pupil::new(config(&folder, Budget::Steps(1), Some(distill)), &course);
    let plain = DistillConfig::plain("nobody".into());
    let heavy = of(DistillConfig { weight: 2.0, ..plain.clone() });
    assert!(matches!(heavy, Err(Error::ConfigValue { key: "distill.weight", .. })), "{heavy:?}");
    let mut other = config(&folder, Budget::Steps(1), Some(DistillConfig { hints: Hints::Attention, ..plain }));
    other.model.heads = 4;
    assert!(matches!(Pupil::new(other, &course), Err(Error::ConfigValue { key: "model.heads", .. })));
    let (text, teacher) = (folder.file("text.txt"), folder.file("teacher.rin"));
    let empty = Course::new(&text, &teacher, 16, 5, Kept::default()).unwrap();
    let mut idle = Pupil::new(config(&folder, Budget::Steps(1), None), &empty).unwrap();
    assert!(matches!(idle.work(&empty, SLICE), Err(Error::ConfigValue { key: "windows", .. })));
    assert!(Course::new(&text, &teacher, 32, 5, Kept::default()).is_err(), "the teacher's context is shorter");
}
