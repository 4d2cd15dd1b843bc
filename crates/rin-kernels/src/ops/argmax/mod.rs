//! The index of the largest logit.

/// The index of the largest value, the lowest one of equals (0 and -0 are equal); `None` where `x` is empty or
/// holds a NaN.
pub fn argmax(x: &[f32]) -> Option<usize> {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut nan = [false; 16];
    let (blocks, tail) = x.as_chunks::<16>();
    for block in blocks {
        for i in 0..16 {
            lanes[i] = if block[i] > lanes[i] { block[i] } else { lanes[i] };
            nan[i] |= block[i].is_nan();
        }
    }
    let largest = lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    if nan.contains(&true) || tail.iter().any(|x| x.is_nan()) {
        return None;
    }
    x.iter().position(|&x| x >= largest)
}

#[cfg(test)]
mod tests {
    use super::argmax;
    use crate::ops::cases::Random;

    #[test]
    fn ties_go_to_the_lowest_index() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), Some(1));
        assert_eq!(argmax(&[-0.0, 0.0]), Some(0));
        assert_eq!(argmax(&[f32::NEG_INFINITY; 40]), Some(0));
        assert_eq!(argmax(&[0.0, f32::INFINITY, f32::INFINITY]), Some(1));
    }

    #[test]
    fn nothing_and_nan_have_no_largest() {
        assert_eq!(argmax(&[]), None);
        for at in [0, 5, 17, 33] {
            let mut x = [1.0; 34];
            x[at] = f32::NAN;
            assert_eq!(argmax(&x), None, "NaN at {at}");
        }
    }

    #[test]
    fn equals_a_plain_scan() {
        let mut random = Random::new(6);
        for n in 1..300 {
            // Few distinct values, so that ties are common.
            let x: Vec<f32> = (0..n).map(|_| random.normal().round()).collect();
            let mut want = 0;
            for i in 1..n {
                if x[i] > x[want] {
                    want = i;
                }
            }
            assert_eq!(argmax(&x), Some(want));
        }
    }
}
