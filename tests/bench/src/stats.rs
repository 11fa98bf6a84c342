//! Medians and their spread.

/// The middle of a set of measurements and the range that holds four fifths of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) p10: f64,
    pub(crate) p90: f64,
    pub(crate) samples: usize,
}

impl Spread {
    /// `None` if there is no measurement.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut samples: Vec<f64> = samples.into_iter().collect();
        samples.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&samples, 0.5)?,
            p10: quantile(&samples, 0.1)?,
            p90: quantile(&samples, 0.9)?,
            samples: samples.len(),
        })
    }

    /// `median (p10..p90)` with this many decimals.
    pub(crate) fn show(&self, decimals: usize) -> String {
        let Self { median, p10, p90, samples } = *self;
        if samples > 1 {
            format!("{median:.decimals$} ({p10:.decimals$}..{p90:.decimals$})")
        } else {
            format!("{median:.decimals$}")
        }
    }
}

/// Linear interpolation between the two neighbors, like R's type 7.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let place = q * (sorted.len().checked_sub(1)?) as f64;
    let below = sorted.get(place.floor() as usize)?;
    let above = sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(spread.median, 2.5);
        assert_eq!((spread.p10, spread.p90), (1.3, 3.7));
    }

    #[test]
    fn nothing_measured_is_not_zero() {
        assert_eq!(Spread::of([]), None);
    }
}
