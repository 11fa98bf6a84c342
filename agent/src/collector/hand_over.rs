//! Transfer of a plan's sites to the guard, in chunks that fit a message.

use edgelat_bpf::layout::SITE_FUNCTION_MASK;
use edgelat_guard::protocol::{ImageId, PlanId, PlanSite, Request, Returns, SITES};
use edgelat_guard::{GuardError, Line};

use super::resolve::Resolved;

/// Sends sites and build-ids to the guard.
///
/// # Errors
/// Fails if the guard refuses a site or a build-id.
pub fn hand_over(
    line: &mut Line,
    plan: PlanId,
    resolved: &Resolved,
    returns: Returns,
) -> Result<(), GuardError> {
    for image in &resolved.images {
        if let (Some(bytes), Some(offset)) = (&image.build_id, image.build_id_offset)
            && let Ok(bytes) = heapless::Vec::from_slice(bytes)
        {
            line.call(&Request::PlanBuildId { plan, image: image.id, offset, bytes })?;
        }
        let mut sites: Vec<PlanSite> = resolved
            .functions
            .iter()
            .enumerate()
            .flat_map(|(row, function)| {
                let wanted = function.sites_in(image.id).filter(|site| returns == Returns::Ret || !site.exit);
                wanted.map(move |site| PlanSite { cookie: site.cookie | row as u64, ..*site })
            })
            .collect();
        // Ranges of one name may overlap, and their common sites are probed once.
        let place = |site: &PlanSite| (site.exit, site.offset, site.cookie & SITE_FUNCTION_MASK);
        sites.sort_unstable_by_key(place);
        sites.dedup_by_key(|site| place(site));
        plan_sites(line, plan, image.id, &sites)?;
    }
    if let Some(python) = &resolved.python {
        let row = resolved.functions.len() as u64;
        let numbered = |site: &PlanSite| PlanSite { cookie: site.cookie | row, ..*site };
        plan_sites(line, plan, python.image, &python.sites.iter().map(numbered).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn plan_sites(line: &mut Line, plan: PlanId, image: ImageId, sites: &[PlanSite]) -> Result<(), GuardError> {
    for sites in sites.chunks(SITES) {
        // A chunk is never longer than the capacity.
        let sites = heapless::Vec::from_slice(sites).map_err(|_| GuardError::Message)?;
        line.call(&Request::PlanSites { plan, image, sites })?;
    }
    Ok(())
}
