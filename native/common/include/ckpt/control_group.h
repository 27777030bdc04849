#pragma once

#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace ckpt {

/// A control group of this process: its directory, and the end of its visible ancestors.
struct ControlGroup {
  /// 1 or 2.
  int version = 2;
  /// Without the root that tests prepend.
  std::string directory;
  /// Mount point of the hierarchy: `directory`, or a prefix of it.
  std::string mount;

  /// `directory` and its parents up to `mount`, the group itself first.
  std::vector<std::string> Lineage() const;
};

namespace control_group {

/// Maximum number of directories searched for a group with an unknown name; more are not worth the time.
inline constexpr std::size_t kMostDirectories = 4096;

/// A mounted hierarchy: the mounted group, and the mount point.
struct Mount {
  int version;
  std::string group;
  std::string point;
};

/// A field of mountinfo: the kernel writes spaces, tabs, line ends and backslashes in octal ("\040").
inline std::string Unescape(const std::string& field) {
  const auto octal = [](char digit) { return digit >= '0' && digit <= '7'; };
  std::string text;
  for (std::size_t i = 0; i < field.size(); i++) {
    if (field[i] == '\\' && i + 3 < field.size() && octal(field[i + 1]) && octal(field[i + 2]) && octal(field[i + 3])) {
      text += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 + (field[i + 3] - '0'));
      i += 3;
    } else {
      text += field[i];
    }
  }
  return text;
}

/// True if a comma-separated list has the word.
inline bool Lists(const std::string& list, const std::string& word) {
  std::istringstream words(list);
  for (std::string each; std::getline(words, each, ',');) {
    if (each == word) return true;
  }
  return false;
}

/// Returns the hierarchies of version 2, and those of version 1 with the controller, in mount order.
inline std::vector<Mount> Mounts(const std::string& controller, const std::string& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string id, parent, device, group, point, word, type, source, options;
    words >> id >> parent >> device >> group >> point;
    // Any number of optional fields, then a dash.
    while (words >> word && word != "-") {
    }
    if (!(words >> type)) continue;
    words >> source >> options;
    const bool version2 = type == "cgroup2";
    if (!version2 && !(type == "cgroup" && Lists(options, controller))) continue;
    point = point == "/" ? "" : Unescape(point);
    // A later mount at the same place hides the earlier one.
    const auto same = [&point](const Mount& mount) { return mount.point == point; };
    mounts.erase(std::remove_if(mounts.begin(), mounts.end(), same), mounts.end());
    mounts.push_back({version2 ? 2 : 1, Unescape(group), point});
  }
  return mounts;
}

/// Returns this process's path in a hierarchy, from /proc/self/cgroup; empty if it is in none.
inline std::string GroupPath(int version, const std::string& controller, const std::string& root) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool matches = version == 2 ? controllers.empty() : Lists(controllers, controller);
    if (matches) return line.substr(second + 1);
  }
  return "";
}

/// Returns true for a path that leaves the visible part of a control group namespace ("/../x").
inline bool Leaves(const std::string& path) { return path == "/.." || path.rfind("/../", 0) == 0; }

/// Number of leading ".." of a path.
inline std::size_t LevelsUp(const std::string& path) {
  std::size_t levels = 0;
  for (std::size_t at = 0; path.compare(at, 3, "/..") == 0; at += 3) levels++;
  return levels;
}

inline bool HoldsThisProcess(const std::string& directory) {
  std::ifstream file(directory + "/cgroup.procs");
  const long self = ::getpid();
  for (long pid = 0; file >> pid;) {
    if (pid == self) return true;
  }
  return false;
}

inline std::vector<std::string> Subdirectories(const std::string& directory) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(directory.c_str()), ::closedir);
  if (!listing) return names;
  while (const dirent* entry = ::readdir(listing.get())) {
    const std::string name = entry->d_name;
    if (entry->d_type == DT_DIR && name != "." && name != "..") names.push_back(name);
  }
  return names;
}

/// Finds our group under a mount that begins above the namespace: its name is hidden, so the directory is found by its
/// processes.
inline std::string FindByProcess(const Mount& mount, std::size_t depth, const std::string& below, const std::string& root) {
  std::vector<std::string> level{""};
  std::size_t looked = 0;
  for (std::size_t i = 0; i < depth; i++) {
    std::vector<std::string> next;
    for (const std::string& parent : level) {
      for (const std::string& name : Subdirectories(root + mount.point + parent)) {
        if (++looked > kMostDirectories) return "";
        next.push_back(parent + "/" + name);
      }
    }
    level = std::move(next);
  }
  for (const std::string& candidate : level) {
    if (HoldsThisProcess(root + mount.point + candidate + below)) return mount.point + candidate + below;
  }
  return "";
}

/// Returns the directory of group `path` under a mount, or of its nearest mounted ancestor.
inline std::string DirectoryIn(const Mount& mount, const std::string& path, const std::string& root) {
  if (Leaves(path)) return mount.point;  // moved out of the namespace: only groups above it may be mounted
  const std::string below = path == "/" ? "" : path;
  if (mount.group == "/") return mount.point + below;
  if (Leaves(mount.group)) {
    const std::string found = FindByProcess(mount, LevelsUp(mount.group), below, root);
    return found.empty() ? mount.point : found;
  }
  if (path == mount.group) return mount.point;
  if (path.rfind(mount.group + "/", 0) == 0) return mount.point + path.substr(mount.group.size());
  return mount.point;  // bound from elsewhere: a container's own group, or one above it
}

/// Returns true if the group is in the mounted part of the hierarchy.
inline bool Shows(const Mount& mount, const std::string& path) {
  return mount.group == "/" || path == mount.group || path.rfind(mount.group + "/", 0) == 0;
}

/// Returns the mount of the hierarchy that shows the most ancestors of the group; null if it is not mounted.
inline const Mount* BestMount(const std::vector<Mount>& mounts, int version, const std::string& path) {
  const Mount* best = nullptr;
  for (const Mount& mount : mounts) {
    if (mount.version != version) continue;
    const bool better =
        best == nullptr || (Shows(mount, path) && (!Shows(*best, path) || mount.group.size() < best->group.size()));
    if (better) best = &mount;
  }
  return best;
}

}  // namespace control_group

inline std::vector<std::string> ControlGroup::Lineage() const {
  std::vector<std::string> lineage;
  for (std::string at = directory;; at.resize(at.rfind('/'))) {
    lineage.push_back(at);
    if (at.size() <= mount.size() || at.rfind('/') == std::string::npos) return lineage;
  }
}

/// Returns the groups in which a controller ("memory", "cpu") may limit this process: at most one of version 2 and one of
/// version 1, found by /proc/self/cgroup and /proc/self/mountinfo. `root` is prepended to every path that is read, for tests.
inline std::vector<ControlGroup> ControlGroupsOf(const std::string& controller, const std::string& root) {
  std::vector<ControlGroup> groups;
  const std::vector<control_group::Mount> mounts = control_group::Mounts(controller, root);
  for (const int version : {2, 1}) {
    const std::string path = control_group::GroupPath(version, controller, root);
    if (path.empty()) continue;
    const control_group::Mount* mount = control_group::BestMount(mounts, version, path);
    if (mount != nullptr) groups.push_back({version, control_group::DirectoryIn(*mount, path, root), mount->point});
  }
  return groups;
}

}  // namespace ckpt
