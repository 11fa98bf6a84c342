//! Attachment of a session's probes: at the start, and for images that are mapped later.

use std::time::Instant;

use edgelat_guard::protocol::Returns;
use edgelat_guard::{GuardError, Line};
use edgelat_image::{Pattern, PythonPattern};

use super::{Notices, Session, SessionError, Sources, Wanted};
use crate::collector::examine::Refused;
use crate::collector::measurement::Measurement;
use crate::collector::resolve::{self, Context, Resolved};
use crate::collector::{notes, refusals};

impl Session {
    /// Attaches and arms everything wanted that is mapped; the rest is pending.
    ///
    /// # Errors
    /// Fails at the first mapped item that cannot be measured; nothing is attached or open then.
    pub fn begin(
        &mut self,
        line: &mut Line,
        wanted: &Wanted,
        sources: &Sources,
        notices: &mut dyn Notices,
    ) -> Result<(), SessionError> {
        let begun = match wanted.functions.is_empty() {
            true => Ok(()),
            false => self.cover(line, wanted, &wanted.functions, sources, notices),
        };
        let begun = begun.and_then(|()| self.cover_python(line, wanted, wanted.python.clone(), notices));
        if begun.is_err() {
            // Probes that are attached already would have no owner, and stay as long as the guard.
            for mut measurement in self.measurements.drain(..) {
                _ = measurement.detach(line);
            }
            self.target.forget(line);
        }
        begun
    }

    /// Attaches and arms the part of `patterns` that is mapped; the rest is pending.
    fn cover(
        &mut self,
        line: &mut Line,
        wanted: &Wanted,
        patterns: &[Pattern],
        sources: &Sources,
        notices: &mut dyn Notices,
    ) -> Result<(), SessionError> {
        let mut context = Context {
            debug_dirs: &sources.debug_dirs,
            packs: &sources.packs,
            unprobed: &wanted.unprobed,
            seen: &self.seen,
            returns: wanted.plan.returns,
            inlined: wanted.inlined,
            progress: &mut |image, at| notices.progress(image, at),
        };
        let mut resolved = resolve::resolve(line, &self.target, patterns, &mut context)?;
        self.pending.retain(|pending| !patterns.contains(pending));
        self.pending.extend_from_slice(&resolved.pending);
        self.seen.append(&mut resolved.seen);
        let nothing_else = resolved.functions.is_empty()
            && resolved.pending.is_empty()
            && wanted.python.is_empty()
            && !self.measures();
        if let Some(missed) = resolved.missed.take_if(|_| nothing_else) {
            return Err(missed.into());
        }
        for refusal in &resolved.refused {
            notices.say(format_args!("not measured: {}: {}", refusal.name, refusal.text));
        }
        self.refused.extend_from_slice(&resolved.refused);
        if resolved.functions.is_empty() {
            return Ok(());
        }
        self.measure(line, wanted, &mut resolved, notices)?;
        notes::of_inlined(&resolved.functions, notices);
        // After arming, because all images are examined.
        if resolved.functions.iter().any(|function| function.until_tail_call) && self.returns == Returns::Ret
        {
            let images = self.target.images(line)?;
            let reason = refusals::return_probes(line, &self.target, &images);
            notes::of_tails(&resolved.functions, reason.as_deref(), notices);
        }
        Ok(())
    }

    /// Attaches and arms Python functions, once their interpreter is mapped.
    fn cover_python(
        &mut self,
        line: &mut Line,
        wanted: &Wanted,
        patterns: Vec<PythonPattern>,
        notices: &mut dyn Notices,
    ) -> Result<(), SessionError> {
        if patterns.is_empty() {
            return Ok(());
        }
        let Some((python, image)) = resolve::resolve_python(line, &self.target, &patterns, &wanted.unprobed)?
        else {
            self.python_pending = patterns;
            return Ok(());
        };
        notes::of_python(&python).for_each(|note| notices.say(format_args!("{note}")));
        let mut resolved = Resolved { images: vec![image], python: Some(python), ..Resolved::default() };
        self.measure(line, wanted, &mut resolved, notices)
    }

    fn measure(
        &mut self,
        line: &mut Line,
        wanted: &Wanted,
        resolved: &mut Resolved,
        notices: &mut dyn Notices,
    ) -> Result<(), SessionError> {
        let mut refused = Refused::default();
        let attached = Measurement::attach(line, &self.target, resolved, wanted.plan, &mut refused);
        notes::of_refused(&refused, notices);
        self.refused.append(&mut refused.functions);
        let mut measurement = attached?;
        // A bound holds from the first call on, so the cost of a call has to be known before.
        let mut known = Ok(());
        if wanted.bounded {
            known = measurement.calibrate(line);
        } else if wanted.calibrated
            && let Err(error) = measurement.calibrate(line)
        {
            // Before counting: each call then knows the time of the probes inside it from its first
            // hit on. And Python functions appear by their first calls: a program may call more of
            // them in a few tenths of a second than there is room for, and none is taken in
            // meanwhile.
            notices.say(format_args!("what the probes themselves add is not known: {error}"));
        }
        if let Err(error) = known.and_then(|()| measurement.arm(line)) {
            _ = measurement.detach(line);
            return Err(error.into());
        }
        if self.measurements.is_empty() {
            self.armed = Instant::now();
            self.read = self.armed;
        }
        self.measurements.push(measurement);
        Ok(())
    }

    /// Attaches to awaited libraries that have come. A target that maps nothing any more has ended;
    /// if nothing is attached yet, no event reports the end.
    ///
    /// # Errors
    /// Fails if an image that has come cannot be measured.
    pub fn look_for_libraries(
        &mut self,
        line: &mut Line,
        wanted: &Wanted,
        sources: &Sources,
        notices: &mut dyn Notices,
    ) -> Result<(), SessionError> {
        let images = match self.list(line) {
            Err(error @ GuardError::Unsupported { .. }) => return Err(error.into()),
            images => images.unwrap_or_default(),
        };
        if images.is_empty() {
            if !self.measures() {
                self.lost();
            }
            return Ok(());
        }
        let python = std::mem::take(&mut self.python_pending);
        self.cover_python(line, wanted, python, notices)?;
        let patterns = self.later(wanted, &images);
        if patterns.is_empty() {
            return Ok(());
        }
        self.cover(line, wanted, &patterns, sources, notices)
    }
}
