//! Which form to take: [`recommend`].

use super::{Form, Recommendation, Speed, Verdict};
use crate::units::{ByteSize, Milliseconds};

/// Figures that are within this factor of the best one count as equal: loads of seconds differ by as much from one to the next.
const EQUAL: f64 = 1.1;

/// A figure that forms are held against one another by.
struct Criterion {
    /// What it is, in the middle of a sentence.
    what: &'static str,
    /// The word for the best.
    best: &'static str,
    /// Smaller is better.
    cost: fn(&Form, &Speed) -> f64,
    show: fn(&Form, &Speed) -> String,
}

#[expect(clippy::cast_precision_loss, reason = "sizes of images are below 2^53")]
fn compressed(form: &Form, _: &Speed) -> f64 {
    form.size.map_or(f64::INFINITY, |size| size.compressed as f64)
}

const CRITERIA: [Criterion; 4] = [
    Criterion {
        what: "image, compressed",
        best: "the smallest",
        cost: compressed,
        show: |form, _| form.size.map_or_else(String::new, |size| ByteSize(size.compressed).to_string()),
    },
    Criterion {
        what: "nothing to first answer",
        best: "the shortest",
        cost: |_, speed| speed.cold_start,
        show: |_, speed| Milliseconds(speed.cold_start).to_string(),
    },
    Criterion {
        what: "latency of one client",
        best: "the shortest",
        cost: |_, speed| speed.latency,
        show: |_, speed| Milliseconds(speed.latency).to_string(),
    },
    Criterion {
        what: "throughput",
        best: "the highest",
        cost: |_, speed| 1.0 / speed.per_second,
        show: |_, speed| format!("{:.1} answers a second", speed.per_second),
    },
];

/// Recommends the form whose figures are the best on the whole: those of each form are divided by the best form's, and the geometric mean
/// of the four ratios decides. Forms that answer otherwise, or lack a figure, are passed over. `None` where none is left.
///
/// Without a test set no form was held against another, and all count.
#[must_use]
pub fn recommend(forms: &[Form], verified: bool) -> Option<Recommendation> {
    let answers = |form: &Form| match form.verdict {
        Verdict::Reference | Verdict::Passed { .. } => true,
        Verdict::Failed { .. } => false,
        Verdict::Unknown => !verified,
    };
    let candidates: Vec<(&Form, &Speed)> = forms
        .iter()
        .filter(|form| form.size.is_some() && answers(form))
        .filter_map(|form| Some((form, form.speed.as_ref()?)))
        .collect();
    let best: Vec<f64> = CRITERIA
        .iter()
        .map(|criterion| candidates.iter().map(|(form, speed)| (criterion.cost)(form, speed)).fold(f64::INFINITY, f64::min))
        .collect();
    let ratio = |criterion: &Criterion, best: f64, (form, speed): (&Form, &Speed)| {
        let ratio = (criterion.cost)(form, speed) / best;
        // Nothing to divide by, or as good as the best.
        if ratio.is_nan() || ratio <= EQUAL { 1.0 } else { ratio }
    };
    let score = |candidate: (&Form, &Speed)| -> f64 {
        CRITERIA.iter().zip(&best).map(|(criterion, best)| ratio(criterion, *best, candidate).ln()).sum()
    };
    // The first of equals, which is the one that was named first.
    let chosen = *candidates.iter().min_by(|a, b| score(**a).total_cmp(&score(**b)))?;
    let mut reasons: Vec<String> = CRITERIA
        .iter()
        .zip(&best)
        .map(|(criterion, best)| {
            let ratio = ratio(criterion, *best, chosen);
            let shown = (criterion.show)(chosen.0, chosen.1);
            let standing = if candidates.len() == 1 {
                String::new()
            } else if ratio <= 1.0 {
                format!(", {}", standing(criterion, &candidates, chosen, *best))
            } else {
                format!(", {ratio:.1} times off the best form")
            };
            format!("{}: {shown}{standing}", criterion.what)
        })
        .collect();
    reasons.extend(forms.iter().filter_map(passed_over(verified)));
    Some(Recommendation { form: chosen.0.name.clone(), reasons })
}

/// Whether it is the best, or one of several.
fn standing(criterion: &Criterion, candidates: &[(&Form, &Speed)], chosen: (&Form, &Speed), best: f64) -> String {
    let as_good = candidates.iter().filter(|(form, speed)| (criterion.cost)(form, speed) / best <= EQUAL).count();
    if as_good == candidates.len() {
        return "as all forms within 10 %".to_owned();
    }
    if as_good > 1 {
        return format!("one of {as_good} that are {} within 10 %", criterion.best);
    }
    let own = (criterion.cost)(chosen.0, chosen.1);
    let others = candidates.iter().filter(|(form, _)| form.name != chosen.0.name);
    let next = others.map(|(form, speed)| (criterion.cost)(form, speed)).fold(f64::INFINITY, f64::min);
    format!("{}, by a factor of {:.1}", criterion.best, next / own)
}

/// Why a form was no candidate.
fn passed_over(verified: bool) -> impl Fn(&Form) -> Option<String> {
    move |form| match &form.verdict {
        Verdict::Failed { relative_rmse, outputs } => Some(format!(
            "`{}` was passed over: it answers otherwise than the first form, {} by a relative-rmse of {relative_rmse:.2e}",
            form.name,
            outputs.join(", ")
        )),
        _ if form.size.is_none() || form.speed.is_none() => Some(format!("`{}` was passed over: it was not measured", form.name)),
        Verdict::Unknown if verified => Some(format!("`{}` was passed over: it was not verified", form.name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Size;
    use super::*;
    use crate::report::cold_start::PageCache;

    fn form(name: &str, megabytes: u64, cold_start: f64, latency: f64, per_second: f64, verdict: Verdict) -> Form {
        let speed = Speed {
            cache: PageCache::Cold,
            cold_start,
            start: cold_start / 2.0,
            runs: 3,
            latency,
            per_second,
            clients: 1,
            steady: Vec::new(),
            memory: None,
        };
        Form {
            name: name.to_owned(),
            image: None,
            stack: None,
            size: Some(Size { compressed: megabytes * 1_000_000, unpacked: 0 }),
            speed: Some(speed),
            verdict,
            missing: Vec::new(),
        }
    }

    const SAME: Verdict = Verdict::Passed { relative_rmse: 1e-6 };

    #[test]
    fn the_best_on_the_whole_is_taken_with_its_own_figures() {
        let heavy = form("heavy", 400, 20_000.0, 9.0, 120.0, Verdict::Reference);
        let light = form("light", 20, 500.0, 10.0, 100.0, SAME);
        let chosen = recommend(&[heavy, light], true).expect("a recommendation");
        assert_eq!(chosen.form, "light");
        assert!(chosen.reasons[0].contains("20.0 MB, the smallest, by a factor of 20.0"), "{:?}", chosen.reasons);
        assert!(chosen.reasons[3].contains("1.2 times off the best form"), "{:?}", chosen.reasons);
    }

    #[test]
    fn what_answers_otherwise_or_was_not_measured_is_passed_over() {
        let right = form("right", 100, 900.0, 9.0, 100.0, Verdict::Reference);
        let wrong = form("wrong", 10, 100.0, 1.0, 900.0, Verdict::Failed { relative_rmse: 0.5, outputs: vec!["y".to_owned()] });
        let unmeasured = Form { speed: None, ..form("gpu", 10, 1.0, 1.0, 1.0, SAME) };
        let chosen = recommend(&[right, wrong.clone(), unmeasured.clone()], true).expect("a recommendation");
        assert_eq!(chosen.form, "right");
        assert!(chosen.reasons.iter().any(|reason| reason.contains("`wrong` was passed over: it answers otherwise")));
        assert!(chosen.reasons.iter().any(|reason| reason.contains("`gpu` was passed over: it was not measured")));
        assert_eq!(recommend(&[wrong, unmeasured], true), None);
    }

    #[test]
    fn the_first_of_equals_is_taken_and_nothing_is_verified_without_data() {
        let first = form("first", 100, 900.0, 9.0, 100.0, Verdict::Unknown);
        let second = form("second", 99, 850.0, 8.5, 105.0, Verdict::Unknown);
        let chosen = recommend(&[first.clone(), second.clone()], false).expect("a recommendation");
        assert_eq!(chosen.form, "first");
        assert!(chosen.reasons.iter().all(|reason| reason.contains("as all forms within 10 %")), "{:?}", chosen.reasons);
        assert_eq!(recommend(&[first, second], true), None);
    }
}
