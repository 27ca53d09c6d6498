//! Answers of people who are connected to the edge.
//!
//! The edge brings a person's token, the number of the approval, and the digest of what it showed. Control
//! believes none of it: it checks the token itself, looks up whether it was revoked and whether its role may
//! approve, and the digest is that of the approval as it stands now or nothing happens. The threats: an edge
//! that is broken by hostile bytes (it can answer as those who are connected and as nobody else), and an answer
//! to something that was never shown.

use super::Said;
use crate::{
    Error,
    api::types::Span,
    check::{Check, keeps},
    host::Host,
};
use cofferdam_base::{
    AUDIENCE, Claims, MAX_TOKEN, TOKEN_TYPE, TenantId,
    ipc::edge::{Answer, Config, Decision, Refused},
};
use cofferdam_policy::Standing;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use std::sync::Arc;

/// So many answers of the edge are looked at at a time.
pub(super) const AT_A_TIME: usize = 16;

impl Host {
    /// Takes an answer that the edge brings; what became of it goes back by itself.
    pub(crate) fn answered_at_edge(self: &Arc<Self>, answer: Answer) {
        let Ok(place) = Arc::clone(&self.book.answering).try_acquire_owned() else {
            let (code, message) = ("busy".to_owned(), "too many answers at a time: try again".to_owned());
            return self
                .tell_edge(Config::Answered { op: answer.op, refused: Some(Refused { code, message }) });
        };
        let host = Arc::clone(self);
        tokio::spawn(async move {
            let op = answer.op;
            let refused = host.take_answer(answer).await.err().map(|error| {
                let error = error.body().error;
                let mend = if error.mend.is_empty() { String::new() } else { format!(" ({})", error.mend) };
                Refused { code: error.code, message: format!("{}{mend}", error.message) }
            });
            host.tell_edge(Config::Answered { op, refused });
            drop(place);
        });
    }

    async fn take_answer(&self, answer: Answer) -> Result<(), Error> {
        let Answer { op: _, token, tenant, approval, shown, decision } = answer;
        let (claims, who) = self.approver(&token, &tenant).await?;
        // A number of another tenant is none that this person can have seen.
        let mine = self.book.live.lock().await.get(&approval).is_none_or(|row| row.tenant == tenant);
        if !mine && keeps(Check::AnswerOwn) {
            return Err(super::missing(approval));
        }
        let said = Said::by(&claims.sub, who, String::new(), Some(shown));
        match decision {
            Decision::AllowOnce => self.yes(approval, Span::Once, said).await,
            Decision::AllowAlways => self.yes(approval, Span::Always, said).await,
            Decision::Deny => self.no(approval, said).await,
        }
        .map(drop)
    }

    /// Whose token is this, if it is one of ours, still good, and its role may approve at this tenant? And as whom?
    async fn approver(&self, token: &str, tenant: &TenantId) -> Result<(Claims, Standing), Error> {
        let refused = |code, message: &str| Error::Refused {
            code,
            message: message.to_owned(),
            mend: format!("cofferdam token issue {tenant} --subject WHO --role approver"),
        };
        let claims = self.issuer.verify(token, &self.facts.issuer);
        let claims = claims.ok_or_else(|| refused("token", "this is no good token of this host"))?;
        if claims.tid != *tenant && keeps(Check::AnswerTenant) {
            return Err(refused("token_other_tenant", "the token is for another tenant"));
        }
        let (jti, whose) = (claims.jti.clone(), tenant.clone());
        let known =
            self.db.run(move |disk| Ok(disk.tokens(Some(&whose))?.into_iter().find(|row| row.jti == jti)));
        let known = known.await?.filter(|row| row.subject == claims.sub && row.role == claims.role);
        let over = known.as_ref().is_some_and(|row| row.revoked.is_some() || row.expires <= self.now());
        let (over, unknown) =
            (over && keeps(Check::AnswerRevoked), known.is_none() && keeps(Check::AnswerIssued));
        if over || unknown {
            return Err(refused("token_revoked", "the token was revoked, has ended, or was never issued"));
        }
        let who =
            Standing::of(&claims.scopes()).or((!keeps(Check::AnswerRole)).then_some(Standing::Approver));
        let who =
            who.ok_or_else(|| refused("may_not_approve", "this person's role may not answer approvals"))?;
        Ok((claims, who))
    }
}

impl crate::keys::Issuer {
    /// The claims of a token that this issuer signed, by this name, and that is neither over nor to come.
    fn verify(&self, token: &str, name: &str) -> Option<Claims> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let header = jsonwebtoken::decode_header(token).ok()?;
        let public = self.public();
        if header.kid.as_deref() != Some(&public.kid) || header.typ.as_deref() != Some(TOKEN_TYPE) {
            return None;
        }
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.leeway = 0;
        rules.set_issuer(&[name]);
        rules.set_audience(&[AUDIENCE]);
        if !keeps(Check::AnswerSigned) {
            return jsonwebtoken::dangerous::insecure_decode_claims(token).ok();
        }
        let key = DecodingKey::from_ed_components(&public.x).ok()?;
        jsonwebtoken::decode::<Claims>(token, &key, &rules).ok().map(|token| token.claims)
    }
}
