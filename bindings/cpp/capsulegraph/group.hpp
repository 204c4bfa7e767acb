/// Groups: sessions that are stepped together.
#ifndef CAPSULEGRAPH_GROUP_HPP
#define CAPSULEGRAPH_GROUP_HPP

#include "session.hpp"

namespace capsulegraph {

/// Steps sessions of one model together, so that they share each pass over the weights. One call at a time, of the group and of
/// each session: a second one meanwhile ends with Status::busy.
class Group : public detail::Owned<capg_group, capg_group_free> {
public:
    static Result<Group> try_make() {
        Group group;
        auto made = detail::get<capg_group *>(capg_group_new);
        if (!made) return *made.error();
        group.own(*made);
        return group;
    }
    /// Goes on with the generations of these sessions, which start() began, for about that long, as Session::advance does, and
    /// for that many tokens of each at most (0: no limit). Gives how many are not at their end; Session::slice gives what came
    /// of each.
    Result<std::size_t> try_advance(const std::vector<Session *> &sessions, std::chrono::microseconds limit,
                                    std::size_t max_tokens = 0, const Cancel *cancel = nullptr) {
        const auto flag = detail::optional(cancel);
        if (!flag) return *flag.error();
        std::vector<Session> kept;
        std::vector<const capg_session *> raw;
        for (const Session *session : sessions) {
            if (!session || !*session)
                return Error(Status::invalid_argument, "session number " + std::to_string(raw.size())
                                                           + " of the group is closed or was moved from: leave it out");
            kept.push_back(session->share());
            raw.push_back(session->get());
        }
        const capg_cancel *token = flag->get();
        auto running = ask<std::size_t>(capg_group_advance, static_cast<const capg_session *const *>(raw.data()), raw.size(),
                                        detail::count_of(limit), max_tokens, token);
        for (const Session &session : kept)
            if (session.host_) session.host_->rethrow();
        return running;
    }
#if CAPSULEGRAPH_EXCEPTIONS
    static Group make() { return try_make().value(); }
    std::size_t advance(const std::vector<Session *> &sessions, std::chrono::microseconds limit, std::size_t max_tokens = 0,
                        const Cancel *cancel = nullptr) {
        return try_advance(sessions, limit, max_tokens, cancel).value();
    }
#endif

private:
    Group() = default;
};

} // namespace capsulegraph

#endif
